"""What to expect in a hospital that did not take part: a prediction over the hospitals that did."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.metrics import Count
from shared.prediction import Prediction, prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class NewHospital:
    """One finding's predictions by measure, None with too few sites; `sites` have counts.

    `unseen`: each site's counts are those of a model, and of a threshold, that its patients had no part in. Otherwise
    they are the shared model's, which was trained on patients of the same sites, and the prediction is hopeful.
    """

    unseen: bool
    sites: int
    predictions: Mapping[str, Prediction | None]


def new_hospital(
    counts: Mapping[str, Mapping[str, Count]], *, unseen: bool, confidence: float, seed: int
) -> NewHospital:
    """Predict each measure from its sites' counts."""
    return NewHospital(
        unseen=unseen,
        sites=sum(count.n > 0 for count in counts["sensitivity"].values()),
        predictions={name: prediction(own, confidence=confidence, seed=seed) for name, own in counts.items()},
    )
