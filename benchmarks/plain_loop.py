"""The same federated rounds as anyone would write them in plain PyTorch: no messages, no guard, no resuming."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from benchmarks.workload import Hospital
from shared.augmentation import Augmentation, apply, draw
from shared.loss import build_loss
from shared.model import build, model_spec
from shared.preprocessing import normalise
from shared.protocol import StudyProtocol
from shared.split import Split

EVALUATION_BATCH = 32

State = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A site's images and labels as tensors on the device."""

    name: str
    images_NCHW: torch.Tensor
    labels_NK: torch.Tensor
    training: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    validation: torch.Tensor


class PlainLoop:
    """FedAvg in a loop over sites: load the weights into one model, train, add up what has changed.

    It adds up site by site instead of keeping every site's weights until the end, which would be slower and would take
    memory for each site. Model, batches and their order, augmentation, loss and optimiser are the study's.
    """

    def __init__(self, protocol: StudyProtocol, hospitals: list[Hospital], *, device: torch.device) -> None:
        self._protocol = protocol
        self._device = device
        self._bf16 = protocol.training.precision == "bf16" and device.type == "cuda"
        layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        model, _ = build(model_spec(protocol), weights_file=None)
        self.model = model.to(device, memory_format=layout)  # type: ignore[call-overload]  # torch's stubs
        self.sites = [_site(hospital, device) for hospital in hospitals]
        for module in self.model.modules():
            if hasattr(module, "collects"):
                module.collects = True
        self._initial = {name: value.clone() for name, value in self.model.state_dict().items()}
        self._augmentation = Augmentation(**protocol.augmentation.model_dump())
        training = protocol.training
        self._loss = build_loss(
            training.loss, exclusive=False, gamma=training.gamma, alpha=training.alpha, positive_weights_K=None
        )

    def run(self, rounds: int, file: Path) -> State:
        """Run rounds from the initial weights, each with every site's validation, saved to `file`; give the weights."""
        weights = self._initial
        for number in range(1, rounds + 1):
            weights = self.exchange(weights, number)
            self.model.load_state_dict(weights)
            for site in self.sites:
                self.validate(site)
            torch.save(weights, file)
        return weights

    def exchange(self, weights: State, number: int) -> State:
        """Run one round without validation."""
        total = {name: torch.zeros_like(value) for name, value in weights.items() if value.is_floating_point()}
        for site in self.sites:
            self.model.load_state_dict(weights)
            self.train(site, number)
            trained = self.model.state_dict()
            update = {name: trained[name] - weights[name] for name in total}
            for name, value in update.items():
                total[name].add_(value, alpha=1 / len(self.sites))
        return {name: value + total[name] if name in total else value for name, value in weights.items()}

    def train(self, site: Site, number: int) -> float:
        """Train on one site for a round and give the last loss."""
        settings = self._protocol.training
        seed = partial(self._protocol.random_seed, "train", site.name, number)
        backbone = [weight for name, weight in self.model.named_parameters() if not name.startswith("fc.")]
        optimiser = torch.optim.AdamW(
            [
                {"params": backbone, "lr": settings.lr_backbone},
                {"params": list(self.model.fc.parameters()), "lr": settings.lr_head},
            ],
            weight_decay=settings.weight_decay,
        )
        self.model.train()
        generator = torch.Generator().manual_seed(seed("augment", 0))
        for batch in self._batches(site, seed("order", 0)):
            images = site.images_NCHW[batch]
            draws = draw(self._augmentation, batch=len(batch), size=images.shape[-1], generator=generator)
            with self._precision():
                logits = self.model(normalise(apply(images, draws), dtype=torch.float32))
                loss = self._loss(logits, site.labels_NK[batch])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stubs
            optimiser.step()
        return float(loss.detach())

    @torch.no_grad()
    def validate(self, site: Site) -> tuple[float, float]:
        """Give the loss and the AUC on one site's validation images."""
        self.model.eval()
        logits = []
        for batch in torch.split(site.validation, EVALUATION_BATCH):
            with self._precision():
                logits.append(self.model(normalise(site.images_NCHW[batch], dtype=torch.float32)))
        scores, labels = torch.cat(logits)[:, 0].float(), site.labels_NK[site.validation, 0]
        wins = scores[labels == 1][:, None] > scores[labels == 0][None]
        return float(functional.binary_cross_entropy_with_logits(scores, labels)), float(wins.float().mean())

    def _batches(self, site: Site, seed: int) -> Iterator[torch.Tensor]:
        order = torch.from_numpy(np.random.default_rng(seed).permutation(site.training))
        yield from torch.split(order, self._protocol.training.batch_size)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16)


def _site(hospital: Hospital, device: torch.device) -> Site:
    everyone = np.arange(len(hospital.pixels))
    return Site(
        name=hospital.name,
        images_NCHW=hospital.pixels.read(everyone).to(device),
        labels_NK=torch.from_numpy(hospital.records.labels_NK).to(device),
        training=hospital.records.rows(Split.TRAIN),
        validation=torch.from_numpy(hospital.records.rows(Split.VALIDATION)),
    )
