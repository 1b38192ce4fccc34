"""A receipt compares the very scores that the evidence was made from, and exists only where that was released."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from client.evaluation import evidence_on
from server.receipt import Worth
from shared.evidence import Withheld
from shared.messages import EvaluateReply
from shared.operating_point import OperatingPoint
from shared.scores import ScoredUnits
from simulations.receipts import receipts


def units(seed: int, *, apart: float, count: int = 200) -> ScoredUnits:
    """Score the same patients, of whom every other is positive; models differ in how far they tell them apart."""
    rng = np.random.default_rng(7)
    positive, noise = (
        np.arange(count) % 2 == 0,
        rng.normal(size=count) + 0.3 * np.random.default_rng(seed).normal(size=count),
    )
    return ScoredUnits(
        scores_M=1 / (1 + np.exp(-noise - apart * positive)), positive_M=positive, patients_M=np.arange(count)
    )


def run(sites: dict[str, ScoredUnits], *, withheld: Sequence[str] = (), threshold: float | None = 0.5) -> Any:
    def reply(site: str) -> EvaluateReply:
        if site in withheld:
            return EvaluateReply(evidence=(Withheld(),))
        return EvaluateReply(evidence=(evidence_on(sites[site], bins=16, confidence=0.95, threshold=0.5),))

    point = OperatingPoint(threshold=threshold or 0.5, target=0.9, claim="point", reached=None)  # type: ignore[arg-type]
    return SimpleNamespace(
        conclusion=SimpleNamespace(
            test={site: reply(site) for site in sites}, operating_point={"opacity": point} if threshold else {}
        ),
        test_units={site: (one,) for site, one in sites.items()},
    )


GOOD, BAD = units(1, apart=3.0), units(2, apart=1.0)


def test_a_receipt_is_federated_minus_alone_on_the_sites_own_units(tiny: Any) -> None:
    """AUCs are those of scikit-learn, sensitivities those at each model's own threshold, and worth follows."""
    federated = run({"north": GOOD, "south": BAD}, threshold=0.6)
    alone = {"north": run({"north": BAD, "south": GOOD}, threshold=0.4), "south": run({"north": BAD, "south": GOOD})}
    found = receipts(tiny.protocol(), federated, alone)["opacity"]
    assert (found["north"].worth, found["south"].worth) == (Worth.BETTER, Worth.WORSE)
    assert found["north"].auc
    assert found["north"].auc.first == pytest.approx(roc_auc_score(GOOD.positive_M, GOOD.scores_M))
    assert found["north"].auc.second == pytest.approx(roc_auc_score(BAD.positive_M, BAD.scores_M))
    assert found["north"].sensitivity
    assert found["north"].sensitivity.first == (GOOD.scores_M[GOOD.positive_M] >= 0.6).mean()
    assert found["north"].sensitivity.second == (BAD.scores_M[BAD.positive_M] >= 0.4).mean()
    assert found["north"].specificity
    assert found["north"].specificity.second == (BAD.scores_M[~BAD.positive_M] < 0.4).mean()


@pytest.mark.parametrize("which", ["federated", "alone"])
def test_what_was_withheld_has_no_receipt(tiny: Any, which: str) -> None:
    """Where a hospital's guard held back either model's evidence, no difference is told."""
    hidden = {which: ["north"]}
    federated = run({"north": GOOD, "south": BAD}, withheld=hidden.get("federated", ()))
    alone = {site: run({"north": BAD, "south": GOOD}, withheld=hidden.get("alone", ())) for site in ("north", "south")}
    assert set(receipts(tiny.protocol(), federated, alone)["opacity"]) == {"south"}


def test_a_site_that_could_not_train_alone_has_none(tiny: Any) -> None:
    """Receipts are for sites with a model of their own."""
    federated = run({"north": GOOD, "south": BAD})
    found = receipts(tiny.protocol(), federated, {"south": run({"north": BAD, "south": GOOD})})
    assert set(found["opacity"]) == {"south"}


def test_without_an_operating_point_there_are_no_rates(tiny: Any) -> None:
    """AUCs are compared all the same: they need no threshold."""
    federated = run({"north": GOOD}, threshold=None)
    (found,) = receipts(tiny.protocol(), federated, {"north": run({"north": BAD})})["opacity"].values()
    assert (found.sensitivity, found.specificity) == (None, None)
    assert found.auc


def test_few_positives_conclude_nothing(tiny: Any) -> None:
    """Below min_positives_to_rank the numbers are there, and the conclusion is not."""
    protocol = tiny.protocol(evaluation={"min_positives_to_rank": 101})
    (found,) = receipts(protocol, run({"north": GOOD}), {"north": run({"north": BAD})})["opacity"].values()
    assert (found.worth, found.positives, found.units) == (Worth.TOO_FEW, 100, 200)
