"""Clipped sums of per-patient gradients in one backward pass, jointly over every parameter that trains.

The sum that `ClippedSums` collects changes by at most `clip` in L2 norm when one patient is added or removed, whatever
that patient's images and labels are: this is the sensitivity that the noise is measured by. What does not meet that is
refused while the plan is built: a parameter without a clipping rule, a layer that may mix the images of a batch.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from client.layer_gradients import BookedBatchNorm, BookedConvolution, BookedGroupNorm, BookedLinear, Booking, of_linear
from shared.errors import PrivacyError, StudyError
from shared.normalisation import GatedBatchNorm2d

RULES: Final[dict[type[nn.Module], type[torch.autograd.Function]]] = {
    nn.Conv2d: BookedConvolution,
    nn.Linear: BookedLinear,
    nn.GroupNorm: BookedGroupNorm,
    nn.BatchNorm2d: BookedBatchNorm,
    GatedBatchNorm2d: BookedBatchNorm,
}
"""The layers whose parameters can be clipped. Exactly these types: a subclass may compute something else."""

ONE_BY_ONE: Final = (nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Identity, nn.Flatten)
"""Layers without parameters that are known to treat each image for itself."""

SLACK: Final = 64
"""Norms are taken as larger by 64 units of rounding, so that rounding never lets a patient exceed the clip."""

DID_NOT_RUN: Final = "a layer that trains did not run, so that its gradient is not known. Freeze it."
RAN_TWICE: Final = "a layer ran twice in one pass, and is clipped as if it ran once. Change the model."

Outputs = Callable[[], torch.Tensor]
"""Runs the model on a batch and gives its outputs (N, K), in which no image sees another."""

Gradient = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Outputs (N, K) and weights (N,) -> the derivative (N, K) of each image's own weighted loss by its outputs."""


class ClippedSums:
    """Collects clipped gradients over virtual batches; use it inside `with clipped_sums(...)`.

    `total_D` is the sum over all patients since `reset`, flat; each parameter's `grad` is its part of it.
    """

    def __init__(self, model: nn.Module, *, clip: float) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # Found once: walking over a whole ResNet costs more than a step of its head.
        self._norms = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
        self._clip = clip
        self._images = 1
        self._bookings: dict[nn.Parameter, Booking] = {}
        sizes = [parameter.numel() for parameter in self.parameters]
        like = self.parameters[0]
        self.total_D = torch.zeros(sum(sizes), dtype=like.dtype, device=like.device)
        self._parts = {
            parameter: part.view_as(parameter)
            for parameter, part in zip(self.parameters, torch.split(self.total_D, sizes), strict=True)
        }

    def reset(self) -> None:
        """Begin a sum of nobody, and let each parameter's `grad` be its part of it."""
        self.total_D.zero_()
        for parameter, part in self._parts.items():
            parameter.grad = part

    def add(self, outputs: Outputs, gradient: Gradient, weights_PK: torch.Tensor) -> None:
        """Add P patients, of K images each: the gradient of each one's weighted loss, clipped to `clip` as a whole.

        A patient whose gradient is not finite adds 0.

        Raises:
            PrivacyError: a layer would mix the images, or did not run exactly once.
        """
        self._check_modes()
        self._images = weights_PK.shape[1]
        self._add_batch(outputs(), gradient, weights_PK.flatten())

    def _add_batch(self, outputs_NK: torch.Tensor, gradient: Gradient, weights_N: torch.Tensor) -> None:
        self._bookings.clear()
        torch.autograd.backward(outputs_NK, gradient(outputs_NK.detach(), weights_N))
        if len(self._bookings) != len(self._parts):
            raise PrivacyError(DID_NOT_RUN)
        with torch.no_grad():
            self._add_clipped()
        self._bookings.clear()

    def _add_clipped(self) -> None:
        # In fp64, so that the sum of many layers' squares rounds nothing away.
        squared_P = torch.stack([booking.squared_norms() for booking in self._bookings.values()]).double().sum(0)
        weights_P, left_out = clip_factors(squared_P, clip=self._clip, dtype=self.total_D.dtype)
        for parameter, booking in self._bookings.items():
            booking.add_to(self._parts[parameter], weights_P, left_out)

    def book(self, parameter: nn.Parameter, booking: Booking) -> None:
        """Take what a layer found for one parameter.

        Raises:
            PrivacyError: the layer ran twice; its gradients would have to be clipped together.
        """
        if parameter in self._bookings:
            raise PrivacyError(RAN_TWICE)
        self._bookings[parameter] = booking

    def run(self, rule: type[torch.autograd.Function], layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """Run a layer as its rule does."""
        # The parameter is there so that autograd comes back to the rule even where nothing before it trains.
        trains = next(parameter for parameter in layer.parameters() if parameter.requires_grad)
        output: torch.Tensor = rule.apply(inputs, trains, layer, self.book, self._images)  # type: ignore[no-untyped-call]  # torch's stubs
        return output

    def _check_modes(self) -> None:
        if any(layer.training for layer in self._norms):
            raise PrivacyError(
                "a BatchNorm is in training mode, and would mix patients. Use norm = 'folded', 'frozen' or 'group'."
            )


class LinearSums(ClippedSums):
    """The same where one linear layer alone trains, as the head does: where it is the last, autograd is not entered.

    What autograd would do is known: the gradient of an image is its outputs' gradient times its inputs.
    """

    def __init__(self, model: nn.Module, *, clip: float) -> None:
        super().__init__(model, clip=clip)
        self._ran: tuple[torch.Tensor, torch.Tensor] | None = None

    def run(self, _: object, layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """Run the layer, and let autograd begin behind it.

        Raises:
            PrivacyError: the layer ran twice.
        """
        if self._ran is not None:
            raise PrivacyError(RAN_TWICE)
        with torch.no_grad():
            outputs = nn.Linear.forward(layer, inputs)  # type: ignore[arg-type]  # no other layer is run like this
        outputs.requires_grad_()
        self._ran = inputs, outputs
        return outputs

    @torch.no_grad()
    def _add_batch(self, outputs_NK: torch.Tensor, gradient: Gradient, weights_N: torch.Tensor) -> None:
        ran, self._ran = self._ran, None
        if ran is None:
            raise PrivacyError(DID_NOT_RUN)
        inputs, own = ran
        gradients = gradient(outputs_NK, weights_N)
        if outputs_NK is not own:  # something runs behind the layer
            (gradients,) = torch.autograd.grad(outputs_NK, own, gradients)
        weight, bias = of_linear(inputs, gradients, images=self._images)
        squared_P = weight.squared_norms().add_(bias.squared_norms())
        weights_P, left_out = clip_factors(squared_P, clip=self._clip, dtype=self.total_D.dtype)
        for part, booking in zip(self._parts.values(), (weight, bias), strict=True):
            booking.add_to(part, weights_P, left_out)


def clip_factors(
    squared_P: torch.Tensor, *, clip: float, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Give each patient's factor min(1, clip / norm) (Abadi et al. 2016), and who is left out as not finite, if any."""
    norms_P = squared_P.sqrt().mul_(1 + SLACK * torch.finfo(dtype).eps)
    weights_P = norms_P.clamp(min=clip).reciprocal_().mul_(clip).to(dtype)
    if math.isfinite(norms_P.sum()):
        return weights_P, None
    finite_P = norms_P.isfinite()
    return weights_P.where(finite_P, 0), (~finite_P).nonzero().flatten()


@contextmanager
def clipped_sums(model: nn.Module, *, clip: float) -> Iterator[ClippedSums]:
    """Let every layer that trains book its patients' gradients while inside.

    Raises:
        StudyError: a parameter that trains has no clipping rule, or a layer may mix the images of a batch.
    """
    refuse_what_cannot_be_clipped(model)
    trained = [layer for layer in model.modules() if any(p.requires_grad for p in layer.parameters(recurse=False))]
    sums = ClippedSums(model, clip=clip)
    if len(sums.parameters) == 2 and [type(layer) for layer in trained] == [nn.Linear]:  # its weight and its bias
        sums = LinearSums(model, clip=clip)
    try:
        for layer in trained:
            _set_forward(layer, partial(sums.run, RULES[type(layer)], layer))
        yield sums
    finally:
        for layer in trained:
            layer.__dict__.pop("forward", None)
        for parameter in sums.parameters:
            parameter.grad = None


def _set_forward(layer: Any, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
    layer.forward = forward  # on the object, over the class's own


def refuse_what_cannot_be_clipped(model: nn.Module) -> None:
    """See that every parameter that trains has a rule and that no layer mixes the images of a batch.

    Raises:
        StudyError: with the layer's type, and what to do.
    """
    owners: dict[nn.Parameter, str] = {}
    for name, layer in model.named_modules():
        trained = [parameter for parameter in layer.parameters(recurse=False) if parameter.requires_grad]
        if trained and (why := _no_rule(layer)):
            raise StudyError(f"under privacy, the {type(layer).__name__} '{name}' {why}. Freeze it or change [model].")
        if (why := _mixes(layer)) and not trained:
            raise StudyError(f"under privacy, the {type(layer).__name__} '{name}' {why}. Change [model].")
        for parameter in trained:
            if parameter in owners:
                raise StudyError(
                    f"under privacy, '{name}' and '{owners[parameter]}' share a parameter. Change [model]."
                )
            owners[parameter] = name
    if not owners:
        raise StudyError("under privacy, the model has no parameter that trains. Let the head train.")


def _no_rule(layer: nn.Module) -> str | None:
    """Say why what a layer trains cannot be clipped, if so."""
    if type(layer) not in RULES:
        return "trains a parameter that has no clipping rule"
    if isinstance(layer, nn.Conv2d) and (
        layer.groups != 1 or layer.padding_mode != "zeros" or isinstance(layer.padding, str)
    ):
        return "has groups or a padding for which there is no clipping rule"
    return _mixes(layer)


def _mixes(layer: nn.Module) -> str | None:
    """Say why a layer may mix the images of a batch, if so."""
    if isinstance(layer, _BatchNorm):
        if layer.running_mean is None or layer.training or getattr(layer, "collects", False):
            return "normalises by the statistics of a batch, so that patients mix (norm = 'batch')"
        return None
    is_leaf = next(layer.children(), None) is None
    if is_leaf and type(layer) not in RULES and not isinstance(layer, ONE_BY_ONE):
        return "is not known to treat each image for itself"
    return None
