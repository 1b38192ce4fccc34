"""Gradients of single patients in single layers: their norms, and their sum once each patient's weight is known.

A layer with a rule runs as an autograd function of its own, whose backward pass books what each patient adds to the
layer's parameters and computes no gradient over the batch. Small gradients are computed for each patient and kept. For
convolutions whose output has few positions the norm comes from Gram matrices instead (the "ghost norm" of Li et al.
2022; mixed layer by layer in Bu et al. 2022), and inputs and output gradients are kept for one weighted sum
(book-keeping, Bu et al. 2023, "Differentially Private Optimization on Large Model at Small Cost").
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, Protocol

import torch
from torch import nn
from torch.nn import functional

GHOST_ADVANTAGE: Final = 40
"""A ghost norm pays while it needs fewer than 40 times as many products as a kernel has weights.

Measured on a CPU, for ResNet-18's kernels at 64 and 224 px: where it needs as many, it is 5 times cheaper; where it
needs 35 times as many (layer2 at 64 px) it takes as long, and no patient's own gradient has to be kept.
"""

ROUNDING: Final = 8
"""Ghost norms are raised by 8 units of rounding of the largest terms that may have cancelled in them."""


class Booking(Protocol):
    """What one parameter needs to know of P patients until each one's weight is known."""

    def squared_norms(self) -> torch.Tensor:
        """Squared L2 norm (P,) of each patient's gradient: not below that of what is summed."""

    def add_to(self, total: torch.Tensor, weights_P: torch.Tensor, left_out: torch.Tensor | None) -> None:
        """Add all patients' weighted gradients; patients `left_out` (indices) add 0, whatever they hold."""


Book = Callable[[nn.Parameter, Booking], None]


class Own:
    """Each patient's own gradient (P, ...): the norm is that of the very numbers that are summed."""

    def __init__(self, gradients: torch.Tensor) -> None:
        self._gradients_PD = gradients.flatten(1)

    @cached_property
    def norms_P(self) -> torch.Tensor:
        """Norms (P,)."""
        norms_P: torch.Tensor = torch.linalg.vector_norm(self._gradients_PD, dim=1)
        return norms_P

    def squared_norms(self) -> torch.Tensor:
        """Squared norms (P,)."""
        return self.norms_P.square()

    def add_to(self, total: torch.Tensor, weights_P: torch.Tensor, left_out: torch.Tensor | None) -> None:
        """Add the weighted sum to a parameter's total."""
        total.view(-1).addmv_(_without(self._gradients_PD, left_out).T, weights_P)


class Outer:
    """A linear layer's gradients for one image a patient: of its inputs (P, I) and of its bias's gradients (P, O)."""

    def __init__(self, inputs_PI: torch.Tensor, outputs_PO: torch.Tensor, bias: Own) -> None:
        self._inputs, self._outputs, self._bias = inputs_PI, outputs_PO, bias

    def squared_norms(self) -> torch.Tensor:
        """Squared norms (P,): of an outer product, the product of its two norms."""
        inputs_P: torch.Tensor = torch.linalg.vector_norm(self._inputs, dim=1)
        return inputs_P.mul_(self._bias.norms_P).square_()

    def add_to(self, total: torch.Tensor, weights_P: torch.Tensor, left_out: torch.Tensor | None) -> None:
        """Add the weighted sum to a weight's total (O, I)."""
        outputs = _without(self._outputs, left_out) * weights_P[:, None]
        total.addmm_(outputs.T, _without(self._inputs, left_out))


class GhostLinear:
    """The same for K images a patient: inputs (P, K, I) and output gradients (P, K, O)."""

    def __init__(self, inputs_PKI: torch.Tensor, outputs_PKO: torch.Tensor) -> None:
        self._inputs, self._outputs = inputs_PKI, outputs_PKO

    def squared_norms(self) -> torch.Tensor:
        """Squared norms (P,)."""
        return _ghost_norms(self._inputs.mT, self._outputs.mT)

    def add_to(self, total: torch.Tensor, weights_P: torch.Tensor, left_out: torch.Tensor | None) -> None:
        """Add the weighted sum to a weight's total (O, I)."""
        outputs = _without(self._outputs, left_out) * weights_P[:, None, None]
        total.addmm_(outputs.flatten(0, 1).T, _without(self._inputs, left_out).flatten(0, 1))


class GhostConvolution:
    """A convolution's gradients, as its inputs (P K, C, H, W) and output gradients."""

    def __init__(self, layer: nn.Conv2d, inputs: torch.Tensor, outputs: torch.Tensor, patients: int) -> None:
        self._layer, self._inputs, self._outputs, self._patients = layer, inputs, outputs, patients

    def squared_norms(self) -> torch.Tensor:
        """Squared norms (P,)."""
        layer = self._layer
        columns = functional.unfold(
            self._inputs,
            layer.kernel_size,
            dilation=layer.dilation,
            padding=layer.padding,  # type: ignore[arg-type]  # a padding by name has no rule
            stride=layer.stride,
        )
        return _ghost_norms(self._by_patient(columns), self._by_patient(self._outputs.flatten(2)))

    def add_to(self, total: torch.Tensor, weights_P: torch.Tensor, left_out: torch.Tensor | None) -> None:
        """Add the weighted sum to a kernel's total."""
        images = len(self._inputs) // self._patients
        if left_out is not None:
            left_out = (left_out[:, None] * images + torch.arange(images, device=left_out.device)).flatten()
        outputs = _without(self._outputs, left_out) * weights_P.repeat_interleave(images)[:, None, None, None]
        total.add_(_kernel_gradient(self._layer, _without(self._inputs, left_out), outputs))

    def _by_patient(self, columns: torch.Tensor) -> torch.Tensor:
        """Put a patient's images side by side: (P K, D, T) to (P, D, K T)."""
        images, features, positions = columns.shape
        if images == self._patients:
            return columns
        return columns.view(self._patients, -1, features, positions).transpose(1, 2).flatten(2)


def _without(values: torch.Tensor, left_out: torch.Tensor | None) -> torch.Tensor:
    return values if left_out is None else values.index_fill(0, left_out, 0)


def _ghost_norms(inputs_PIT: torch.Tensor, outputs_POT: torch.Tensor) -> torch.Tensor:
    """Squared norms (P,) of sums over positions of outer products, by Gram matrices; rounding can only raise them.

    Terms that cancel leave their rounding behind, however small their sum is. By Cauchy and Schwarz none of them is
    larger than what the Gram matrices' diagonals say, and some units of its rounding are added.
    """
    inputs_PTT, outputs_PTT = torch.bmm(inputs_PIT.mT, inputs_PIT), torch.bmm(outputs_POT.mT, outputs_POT)
    diagonals_PT = inputs_PTT.diagonal(dim1=1, dim2=2) * outputs_PTT.diagonal(dim1=1, dim2=2)
    largest_P = diagonals_PT.sqrt().sum(1).square()
    slack = ROUNDING * torch.finfo(inputs_PIT.dtype).eps
    return (inputs_PTT * outputs_PTT).sum((1, 2)).clamp(min=0) + slack * largest_P


def _kernel_gradient(layer: nn.Conv2d, inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    gradient: torch.Tensor = _convolution_backward(layer, inputs, outputs, (False, True, False))[1]
    return gradient


def _convolution_backward(
    layer: nn.Conv2d, inputs: torch.Tensor, outputs: torch.Tensor, wanted: tuple[bool, bool, bool]
) -> Any:
    return torch.ops.aten.convolution_backward(
        outputs, inputs, layer.weight, None, layer.stride, layer.padding, layer.dilation, False, (0, 0), 1, wanted
    )


class BookedConvolution(torch.autograd.Function):
    """A convolution that books its patients' gradients."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, _: object, layer: nn.Conv2d, book: Book, images: int) -> torch.Tensor:
        """Convolve; `images` is the number of images a patient."""
        ctx.save_for_backward(inputs)
        ctx.layer, ctx.book, ctx.images = layer, book, images
        return nn.Conv2d.forward(layer, inputs)

    @staticmethod
    def backward(ctx: Any, outputs: torch.Tensor) -> Any:
        """Book, and pass the gradient on where something before it trains."""
        (inputs,), layer, images = ctx.saved_tensors, ctx.layer, ctx.images
        if layer.weight.requires_grad:
            ctx.book(layer.weight, _kernel_booking(layer, inputs, outputs, images))
        if layer.bias is not None and layer.bias.requires_grad:
            ctx.book(layer.bias, Own(_over_images(outputs.sum((2, 3)), images)))
        needed = ctx.needs_input_grad[0]
        passed = _convolution_backward(layer, inputs, outputs, (True, False, False))[0] if needed else None
        return passed, None, None, None, None


def _kernel_booking(layer: nn.Conv2d, inputs: torch.Tensor, outputs: torch.Tensor, images: int) -> Booking:
    """Choose the cheaper of the two by the products that each needs."""
    patients, kernel = len(inputs) // images, layer.weight
    positions = images * outputs.shape[2] * outputs.shape[3]
    if positions**2 * (kernel[0].numel() + len(kernel)) < GHOST_ADVANTAGE * kernel.numel():
        return GhostConvolution(layer, inputs, outputs, patients)
    own = inputs.new_empty(patients, *kernel.shape)
    for patient, (seen, wanted) in enumerate(
        zip(torch.split(inputs, images), torch.split(outputs, images), strict=True)
    ):
        # One call a patient costs what one call for all does, as long as the kernel is small.
        own[patient] = _kernel_gradient(layer, seen, wanted)
    return Own(own)


class BookedLinear(torch.autograd.Function):
    """A linear layer that books its patients' gradients."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, _: object, layer: nn.Linear, book: Book, images: int) -> torch.Tensor:
        """Multiply."""
        ctx.save_for_backward(inputs)
        ctx.layer, ctx.book, ctx.images = layer, book, images
        return nn.Linear.forward(layer, inputs)

    @staticmethod
    def backward(ctx: Any, outputs: torch.Tensor) -> Any:
        """Book, and pass the gradient on where something before it trains."""
        (inputs,), layer, images = ctx.saved_tensors, ctx.layer, ctx.images
        weight, bias = of_linear(inputs, outputs, images=images)
        if layer.weight.requires_grad:
            ctx.book(layer.weight, weight)
        if layer.bias is not None and layer.bias.requires_grad:
            ctx.book(layer.bias, bias)
        return outputs @ layer.weight if ctx.needs_input_grad[0] else None, None, None, None, None


def of_linear(inputs: torch.Tensor, outputs: torch.Tensor, *, images: int) -> tuple[Booking, Booking]:
    """Give a linear layer's gradients of weight and bias, of its inputs and output gradients, so many a patient."""
    if images == 1:
        bias = Own(outputs)
        return Outer(inputs, outputs, bias), bias
    return GhostLinear(_by_patient(inputs, images), _by_patient(outputs, images)), Own(_over_images(outputs, images))


class BookedBatchNorm(torch.autograd.Function):
    """A BatchNorm in evaluation mode, whose scale and shift book their patients' gradients."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, _: object, layer: nn.BatchNorm2d, book: Book, images: int
    ) -> torch.Tensor:
        """Normalise by the stored statistics."""
        ctx.save_for_backward(inputs)
        ctx.layer, ctx.book, ctx.images = layer, book, images
        return nn.BatchNorm2d.forward(layer, inputs)

    @staticmethod
    def backward(ctx: Any, outputs: torch.Tensor) -> Any:
        """Book, and pass the gradient on where something before it trains."""
        (inputs,), layer = ctx.saved_tensors, ctx.layer
        root_C = (layer.running_var + layer.eps).rsqrt()
        _book_affine(ctx, inputs, outputs, layer.running_mean.expand(len(inputs), -1), root_C.expand(len(inputs), -1))
        needed = ctx.needs_input_grad[0]
        passed = outputs * (layer.weight * root_C).view(1, -1, 1, 1) if needed else None
        return passed, None, None, None, None


class BookedGroupNorm(torch.autograd.Function):
    """A GroupNorm whose scale and shift book their patients' gradients."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, _: object, layer: nn.GroupNorm, book: Book, images: int
    ) -> torch.Tensor:
        """Normalise each image by itself."""
        size = (len(inputs), layer.num_channels, inputs[0, 0].numel(), layer.num_groups)
        output, mean, root = torch.native_group_norm(inputs, layer.weight, layer.bias, *size, layer.eps)
        ctx.save_for_backward(inputs, mean, root)
        ctx.layer, ctx.book, ctx.images, ctx.size = layer, book, images, size
        return output

    @staticmethod
    def backward(ctx: Any, outputs: torch.Tensor) -> Any:
        """Book, and pass the gradient on where something before it trains."""
        (inputs, mean, root), layer, passed = ctx.saved_tensors, ctx.layer, None
        channels = layer.num_channels // layer.num_groups
        _book_affine(ctx, inputs, outputs, *(each.repeat_interleave(channels, dim=1) for each in (mean, root)))
        if ctx.needs_input_grad[0]:
            passed = torch.ops.aten.native_group_norm_backward(
                outputs.contiguous(), inputs.contiguous(), mean, root, layer.weight, *ctx.size, (True, False, False)
            )[0]
        return passed, None, None, None, None


def _book_affine(
    ctx: Any, inputs: torch.Tensor, outputs: torch.Tensor, mean_NC: torch.Tensor, root_NC: torch.Tensor
) -> None:
    """Book a scale's and a shift's gradients: sums over positions of g (x - mean) / deviation, and of g."""
    shift_NC = outputs.sum((2, 3))
    if ctx.layer.weight.requires_grad:
        # Deviations first, sums then: the difference of two large sums would have lost its digits.
        scale_NC = ((inputs - mean_NC[:, :, None, None]) * outputs).sum((2, 3)) * root_NC
        ctx.book(ctx.layer.weight, Own(_over_images(scale_NC, ctx.images)))
    if ctx.layer.bias.requires_grad:
        ctx.book(ctx.layer.bias, Own(_over_images(shift_NC, ctx.images)))


def _over_images(gradients_ND: torch.Tensor, images: int) -> torch.Tensor:
    return gradients_ND if images == 1 else _by_patient(gradients_ND, images).sum(1)


def _by_patient(values_ND: torch.Tensor, images: int) -> torch.Tensor:
    return values_ND.reshape(-1, images, values_ND.shape[1])
