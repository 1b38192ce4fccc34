"""A round's validation: merged bins for the pool, exact values for each site, nothing for what is not known."""

from functools import partial
from typing import Any

import pytest

from server.admission import Refused
from server.validation import merged_histogram, released, validation_record
from shared.estimates import Estimate
from shared.evidence import Evidence, Withheld
from shared.messages import EvaluateReply
from shared.metrics import ScoreHistogram
from shared.operating_point import choose_on


def evidence(positives: tuple[int, ...], negatives: tuple[int, ...], area: float | None = 0.7) -> Evidence:
    units = sum(positives) + sum(negatives)
    return Evidence(
        units=units,
        patients=units,
        positive_patients=sum(positives),
        negative_patients=sum(negatives),
        histogram=ScoreHistogram(positives=positives, negatives=negatives),
        confusion=None,
        auc=None if area is None else Estimate(value=area, low=0.0, high=1.0),
        brier=None,
    )


CHOOSE = partial(choose_on, target=0.7, claim="point", confidence=0.95)
"""With two bins the threshold is 0.5 where 3 of 4 positives lie above it."""

EVALUATIONS: Any = {
    "north": EvaluateReply(evidence=(evidence((0, 2), (3, 1)), evidence((0, 0), (1, 4), None))),
    "south": EvaluateReply(evidence=(evidence((1, 1), (0, 2), 0.4), Withheld())),
    "west": Refused(reason="no_reply"),
}


def test_histograms_are_added_over_those_that_released_them() -> None:
    """Refused and withheld evidence is left out, and is not zero."""
    assert merged_histogram(EVALUATIONS, 0) == ScoreHistogram(positives=(1, 3), negatives=(3, 3))
    assert merged_histogram(EVALUATIONS, 1) == ScoreHistogram(positives=(0, 0), negatives=(1, 4))
    assert merged_histogram({"west": EVALUATIONS["west"]}, 0) is None
    assert set(released(EVALUATIONS, 0)) == {"north", "south"}
    assert set(released(EVALUATIONS, 1)) == {"north"}


def test_a_round_is_described_by_pool_site_and_mean() -> None:
    """The pooled AUC counts ties half; a target without positives has none, and the mean is over those that have."""
    record = validation_record(EVALUATIONS, ("opacity", "effusion"), CHOOSE)
    pooled = (3 * 3 + 0.5 * 1 * 3 + 0.5 * 3 * 3) / (4 * 6)
    assert record == {
        "macro_auc": pytest.approx(pooled),
        "pooled_auc": {"opacity": pytest.approx(pooled), "effusion": None},
        "site_auc": {"opacity": {"north": 0.7, "south": 0.4}, "effusion": {"north": None}},
        "site_rates": {
            "opacity": {
                "north": {"sensitivity": [2, 2], "specificity": [3, 4]},
                "south": {"sensitivity": [1, 2], "specificity": [0, 2]},
            },
            "effusion": {},
        },
    }


def test_no_evidence_at_all_is_no_number() -> None:
    """Where nobody released anything, there is no mean to choose a round by."""
    record = validation_record({"west": EVALUATIONS["west"]}, ("opacity",), CHOOSE)
    assert record == {
        "macro_auc": None,
        "pooled_auc": {"opacity": None},
        "site_auc": {"opacity": {}},
        "site_rates": {"opacity": {}},
    }
