"""Describe one site's images as the model sees them: features, brightness, and what each corner adds to the scores."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from client.features import gathered, in_batches
from client.inputs import Inputs
from client.site_data import Records, Rows
from client.workbench import Workbench
from shared.description import CORNERS, CornerEffect, CornerTest, Description
from shared.feature_summary import project
from shared.feature_summary import summarise as summarise_features
from shared.intensity import image_shares
from shared.intensity import summarise as summarise_intensity
from shared.intervals import area
from shared.preprocessing import normalise
from shared.scores import Floats
from shared.split import Split

PATCH = 3 / 16
"""Side of the corner that is blanked, in image sides: letters and lead markers lie there, lungs do not."""

Seed = Callable[..., int]


def describe(
    bench: Workbench, inputs: Inputs, records: Records, *, start: str, exclusive: bool, split: Split, seed: Seed
) -> Description:
    """Describe the images of `split` that show no disease, and test the corners on validation patients.

    Images without disease alone, so that another share of the diseased is no distance. `seed` gives the public
    directions by ("projection"), and what only this site draws by ("halves"). Nothing is suppressed here.
    """
    rows = one_a_patient(clear_rows(records, split, exclusive=exclusive), records)
    return Description(
        features=summarise_features(
            project(features(bench, inputs, rows, start=start), seed=seed("projection")),
            split=split,
            seed=seed("halves"),
        ),
        intensity=summarise_intensity(intensities(inputs, rows), seed=seed("halves")),
        corners=corner_tests(bench, inputs, records, exclusive=exclusive),
    )


def clear_rows(records: Records, split: Split, *, exclusive: bool) -> Rows:
    """Find the images without disease: no finding present and one absent; of classes, the study's first."""
    rows = records.rows(split)
    labels_NK = records.labels_NK[rows]
    none_N = ~(labels_NK == 1).any(axis=1) & (labels_NK == 0).any(axis=1)
    clear: Rows = rows[labels_NK[:, 0] == 1 if exclusive else none_N]
    return clear


def one_a_patient(rows: Rows, records: Records) -> Rows:
    """Keep each patient's first image: a patient is one row of every sum."""
    _, first = np.unique(records.patients_N[rows], return_index=True)
    return rows[np.sort(first)]


@torch.no_grad()
def features(bench: Workbench, inputs: Inputs, rows: Rows, *, start: str) -> Floats:
    """Give the pooled features (len(rows), D) of the loaded model."""
    bench.classifier.eval()

    def pooled(batch: Rows) -> torch.Tensor:
        hidden = inputs.evaluation(batch, start=start).to(bench.device)
        with bench.precision():
            found: torch.Tensor = bench.classifier.pooled(hidden, start=start)
        return found

    return gathered(rows, bench.classifier.fc.in_features, pooled)


def intensities(inputs: Inputs, rows: Rows) -> Floats:
    """Give each prepared image's histogram, (len(rows), bins)."""
    found = [image_shares(inputs.images(batch).cpu().numpy()) for batch in in_batches(rows)]
    return np.concatenate(found) if found else np.empty((0, 0))


def corner_tests(bench: Workbench, inputs: Inputs, records: Records, *, exclusive: bool) -> tuple[CornerTest, ...]:
    """Score the validation images as they are and with each corner blanked, and compare the falls of the classes."""
    rows = records.rows(Split.VALIDATION)
    as_it_is_NK = _logits(bench, inputs, rows, corner=None, exclusive=exclusive)
    blanked = [_logits(bench, inputs, rows, corner=corner, exclusive=exclusive) for corner in CORNERS]
    return tuple(
        corner_test(
            as_it_is_NK[:, place],
            [one_NK[:, place] for one_NK in blanked],
            records.labels_NK[rows, place],
            records.patients_N[rows],
        )
        for place in range(records.labels_NK.shape[1])
    )


def corner_test(
    logits_N: Floats, blanked: list[Floats], labels_N: npt.NDArray[np.floating], patients_N: npt.NDArray[np.int64]
) -> CornerTest:
    """Compare both classes' falls for one finding, each image one value and each patient one cluster."""
    positive_N, negative_N = labels_N == 1, labels_N == 0
    sizes = [len(np.unique(patients_N[chosen])) for chosen in (positive_N, negative_N)]
    effects: tuple[CornerEffect, ...] = ()
    if min(sizes) >= 2:
        effects = tuple(
            _effect(logits_N, other_N, positive_N, negative_N, patients_N, freedom=min(sizes) - 1)
            for other_N in blanked
        )
    return CornerTest(positive_patients=sizes[0], negative_patients=sizes[1], effects=effects)


def _effect(
    logits_N: Floats,
    blanked_N: Floats,
    positive_N: npt.NDArray[np.bool_],
    negative_N: npt.NDArray[np.bool_],
    patients_N: npt.NDArray[np.int64],
    *,
    freedom: int,
) -> CornerEffect:
    """Give the difference of two means with patients as clusters (Liang and Zeger, Biometrika 1986;73:13)."""
    fall_N = logits_N - blanked_N
    falls = fall_N[positive_N].mean(), fall_N[negative_N].mean()
    influence_N = (
        positive_N * (fall_N - falls[0]) / positive_N.sum() - negative_N * (fall_N - falls[1]) / negative_N.sum()
    )
    assessed = positive_N | negative_N
    _, cluster = np.unique(patients_N[assessed], return_inverse=True)
    sums = np.bincount(cluster, weights=influence_N[assessed])
    return CornerEffect(
        value=float(falls[0] - falls[1]),
        error=float(np.sqrt(sums @ sums * len(sums) / (len(sums) - 1))),
        freedom=freedom,
        auc=area(logits_N[positive_N], logits_N[negative_N]),
        auc_without=area(blanked_N[positive_N], blanked_N[negative_N]),
    )


@torch.no_grad()
def _logits(bench: Workbench, inputs: Inputs, rows: Rows, *, corner: str | None, exclusive: bool) -> Floats:
    """Give the log-odds of every target, (len(rows), K)."""
    bench.classifier.eval()

    def log_odds(batch: Rows) -> torch.Tensor:
        images_NCHW = inputs.images(batch)
        prepared = images_NCHW if corner is None else blank(images_NCHW, corner)
        with bench.precision():
            outputs: torch.Tensor = bench.classifier(normalise(prepared.to(bench.device), dtype=torch.float32)).double()
        if exclusive:  # the log-odds of a softmax: one class against all others together
            total = outputs.logsumexp(dim=1, keepdim=True)
            outputs = outputs - (total + torch.log1p(-(outputs - total).exp().clamp(max=1 - 1e-12)))
        return outputs

    return gathered(rows, bench.classifier.fc.out_features, log_odds)


def blank(images_NCHW: torch.Tensor, corner: str) -> torch.Tensor:
    """Paint a corner of each image with its own median, by channel: what is small in it goes, its background stays."""
    side = round(PATCH * images_NCHW.shape[-1])
    down = slice(0, side) if corner.startswith("upper") else slice(-side, None)
    right = slice(0, side) if corner.endswith("left") else slice(-side, None)
    painted = images_NCHW.clone()
    values = painted[:, :, down, right].to(torch.int32).flatten(2).median(dim=2).values
    painted[:, :, down, right] = values[:, :, None, None].to(painted.dtype)
    return painted
