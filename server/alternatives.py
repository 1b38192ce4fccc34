"""What a study is measured against: the conclusions of other models of the same study, and the sites' receipts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from server.image_shift import CrossFitted
from server.receipt import Receipts
from server.study_run import Conclusion
from server.validation import by_measure, rate_counts
from shared.metrics import Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternatives:
    """Models that were run beside the federated one, in simulation alone; empty where none was asked for.

    `unseen[site]` trained at all sites but that one, `local[site]` at that site alone, `pooled` on all patients in one
    place, `twin` without the private study's noise. `receipts` compare the federated model with each site's own,
    `personal` the same study with each site's own normalisation layers with the federated model, `blended` a site's
    own head and the federated one, half and half, with its own alone. `cross_fitted` is how
    surely the site of a patient is told from the features themselves.
    """

    local: Mapping[str, Conclusion] = field(default_factory=dict)
    pooled: Conclusion | None = None
    twin: Conclusion | None = None
    unseen: Mapping[str, Conclusion] = field(default_factory=dict)
    receipts: Receipts = field(default_factory=dict)
    personal: Receipts = field(default_factory=dict)
    blended: Receipts = field(default_factory=dict)
    cross_fitted: Mapping[str, Mapping[str, CrossFitted]] = field(default_factory=dict)

    def counts(self, conclusion: Conclusion, place: int, target: str) -> dict[str, dict[str, Count]]:
        """Count what is right by measure and site for a prediction: from models that never saw the site, if there are.

        Without an operating point there is nothing to count.
        """
        if not self.unseen:
            return _counts(conclusion, place, target)
        found = by_measure({})
        for site, without in self.unseen.items():
            for measure, counts in _counts(without, place, target).items():
                found[measure] |= {name: count for name, count in counts.items() if name == site}
        return found


def _counts(conclusion: Conclusion, place: int, target: str) -> dict[str, dict[str, Count]]:
    if conclusion.operating_point.get(target) is None:
        return by_measure({})
    return rate_counts(conclusion.test, place)
