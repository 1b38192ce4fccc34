"""Describe one site's images: features, brightness, what each corner adds to the scores, and what stands out there."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from client.corners import blank, standing_out
from client.evaluation import LARGEST_LOGIT, answerable
from client.features import gathered, in_batches
from client.inputs import Inputs
from client.membership import Counted, too_telling
from client.patient_flow import class_patients
from client.site_data import Records, Rows
from client.workbench import Workbench
from shared.description import CORNERS, CornerEffect, CornerTest, Description, MarkTest
from shared.evidence import Withheld
from shared.feature_summary import project
from shared.feature_summary import summarise as summarise_features
from shared.intensity import image_shares
from shared.intensity import summarise as summarise_intensity
from shared.intervals import area
from shared.preprocessing import normalise
from shared.protocol import StudyProtocol
from shared.scores import Floats
from shared.split import Split

LARGEST_FEATURE = 1e6
"""Pooled features of a network that answers are below a thousand; their squares stay far from what fp64 can hold."""

Seed = Callable[..., int]


def describe(
    bench: Workbench, inputs: Inputs, records: Records, *, start: str, exclusive: bool, split: Split, seed: Seed
) -> Description:
    """Describe the images of `split` that show no disease, and test the corners.

    Images without disease alone, so that another share of the diseased is no distance. What a corner does to the scores
    is tested on validation patients, what stands out there on all of `split`. `seed` gives the public directions by
    ("projection"), and what only this site draws by ("halves"). Nothing is suppressed here.
    """
    rows = described_rows(records, split, exclusive=exclusive)
    return Description(
        features=summarise_features(
            project(features(bench, inputs, rows, start=start), seed=seed("projection")),
            split=split,
            seed=seed("halves"),
        ),
        intensity=summarise_intensity(intensities(inputs, rows), seed=seed("halves")),
        corners=corner_tests(bench, inputs, records, start=start, exclusive=exclusive),
        marks=mark_tests(inputs, records, split=split),
    )


def withheld_description(*, targets: int) -> Description:
    """Give the description of which nothing leaves."""
    nothing = tuple(Withheld() for _ in range(targets))
    return Description(features=Withheld(), intensity=Withheld(), corners=nothing, marks=nothing)


def described_split(protocol: StudyProtocol) -> Split:
    """Name whose images are described: training patients; under [privacy], where these are noised, validation ones."""
    return Split.TRAIN if protocol.privacy is None else Split.VALIDATION


def described_rows(records: Records, split: Split, *, exclusive: bool) -> Rows:
    """Find one image of each patient without disease."""
    return one_a_patient(clear_rows(records, split, exclusive=exclusive), records)


def clear_rows(records: Records, split: Split, *, exclusive: bool) -> Rows:
    """Find the images without disease: no finding present and one absent; of classes, the study's first."""
    rows = records.rows(split)
    labels_NK = records.labels_NK[rows]
    none_N = ~(labels_NK == 1).any(axis=1) & (labels_NK == 0).any(axis=1)
    clear: Rows = rows[labels_NK[:, 0] == 1 if exclusive else none_N]
    return clear


def clear_patients_tell(records: Records, split: Split, *, exclusive: bool, least: int) -> bool:
    """Tell whether the number of patients without disease, beside those that leave, is about fewer than `least`.

    What leaves beside it are the split's patients and, of each target, who has it and who has not, if both are enough:
    the negatives of a finding minus those without any disease are who has another finding. Who has it not is counted by
    exams in the flow, by images in evidence and corner tests, and as who never had it in mark tests.
    """
    rows = records.rows(split)
    patients_N, labels_NK = records.patients_N[rows], records.labels_NK[rows]
    sets = [patients_N]
    for labels_N in labels_NK.T:
        positive, negative = np.unique(patients_N[labels_N == 1]), np.unique(patients_N[labels_N == 0])
        by_exams = class_patients(patients_N, records.exams_N[rows], labels_N)
        for pair in (by_exams, (positive, negative), (positive, np.setdiff1d(negative, positive))):
            sets += pair if min(map(len, pair)) >= least else ()
    clear = records.patients_N[described_rows(records, split, exclusive=exclusive)]
    return too_telling([_counted(clear, "clear"), *(_counted(one, None) for one in sets)], least=least) is not None


def _counted(patients_N: npt.NDArray[np.int64], group: str | None) -> Counted:
    return Counted(group=group, elements=frozenset((patient, patient) for patient in patients_N.tolist()))


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
        return answerable(found, most=LARGEST_FEATURE)

    return gathered(rows, bench.classifier.fc.in_features, pooled)


def intensities(inputs: Inputs, rows: Rows) -> Floats:
    """Give each prepared image's histogram, (len(rows), bins)."""
    found = [image_shares(inputs.images(batch).cpu().numpy()) for batch in in_batches(rows)]
    return np.concatenate(found) if found else np.empty((0, 0))


def mark_tests(inputs: Inputs, records: Records, *, split: Split) -> tuple[MarkTest, ...]:
    """Ask of every target whether it goes with what stands out in each corner, whatever the model does with that."""
    rows = records.rows(split)
    found = [standing_out(inputs.images(batch)) for batch in in_batches(rows)]
    standing_NC = np.concatenate(found) if found else np.empty((0, len(CORNERS)))
    return tuple(
        mark_test(standing_NC, records.labels_NK[rows, place], records.patients_N[rows], split=split)
        for place in range(records.labels_NK.shape[1])
    )


def mark_test(
    standing_NC: Floats, labels_N: npt.NDArray[np.floating], patients_N: npt.NDArray[np.int64], *, split: Split
) -> MarkTest:
    """Compare both classes by one image of each patient: patients are independent, images are not.

    It is the first positive one, or the first negative one of who has none: a patient is positive if any image is, as
    the patient flow and the evidence have it.
    """
    assessed = np.flatnonzero((labels_N == 1) | (labels_N == 0))
    assessed = assessed[np.argsort(labels_N[assessed] != 1, kind="stable")]
    _, first = np.unique(patients_N[assessed], return_index=True)
    positive = labels_N[assessed[first]] == 1
    one_each = standing_NC[assessed[first]]
    sizes = int(positive.sum()), int((~positive).sum())
    areas: tuple[float, ...] = ()
    if min(sizes) >= 2:
        areas = tuple(area(one_each[positive, place], one_each[~positive, place]) for place in range(len(CORNERS)))
    return MarkTest(split=split, positive_patients=sizes[0], negative_patients=sizes[1], areas=areas)


def corner_tests(
    bench: Workbench, inputs: Inputs, records: Records, *, start: str, exclusive: bool
) -> tuple[CornerTest, ...]:
    """Score the validation images as they are and with each corner blanked, and compare the falls of the classes."""
    rows = records.rows(Split.VALIDATION)

    def as_it_is(batch: Rows) -> torch.Tensor:
        hidden = inputs.evaluation(batch, start=start).to(bench.device)
        logits: torch.Tensor = bench.classifier.rest(hidden, start=start)
        return logits

    def without(corner: str) -> Callable[[Rows], torch.Tensor]:
        def outputs(batch: Rows) -> torch.Tensor:
            painted = blank(inputs.images(batch), corner)
            logits: torch.Tensor = bench.classifier(normalise(painted.to(bench.device), dtype=torch.float32))
            return logits

        return outputs

    as_it_is_NK = _logits(bench, rows, as_it_is, exclusive=exclusive)
    blanked = [_logits(bench, rows, without(corner), exclusive=exclusive) for corner in CORNERS]
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
def _logits(bench: Workbench, rows: Rows, forward: Callable[[Rows], torch.Tensor], *, exclusive: bool) -> Floats:
    """Give the log-odds of every target, (len(rows), K)."""
    bench.classifier.eval()

    def log_odds(batch: Rows) -> torch.Tensor:
        with bench.precision():
            outputs = answerable(forward(batch), most=LARGEST_LOGIT)
        if exclusive:  # the log-odds of a softmax: one class against all others together
            total = outputs.logsumexp(dim=1, keepdim=True)
            outputs = outputs - (total + torch.log1p(-(outputs - total).exp().clamp(max=1 - 1e-12)))
        return outputs

    return gathered(rows, bench.classifier.fc.out_features, log_odds)
