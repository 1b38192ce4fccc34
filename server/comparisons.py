"""One finding's sites beside each other and beside the target, as each test has it: nothing is adjusted here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from server.family import Adjusted, Hypothesis
from server.score_evidence import target_p
from server.validation import by_measure
from shared.domain_shift import Heterogeneity, SiteDifference, heterogeneity, site_differences
from shared.evidence import Evidence
from shared.metrics import Count
from shared.protocol import Evaluation

SHARE = "share of positives"
"""What is compared beside sensitivity and specificity."""

Differences = Mapping[str, tuple[SiteDifference, ...]]
Spread = Mapping[str, Heterogeneity | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparisons:
    """One finding's tests of sites; `known` is the evidence of every site that has some, `ranked` who is compared.

    `differences` holds, by measure, each ranked site against all others that are known; `spread` whether all known
    sites share one value; `targets` the p of each ranked site's sensitivity against the study's target.
    """

    finding: str
    known: Mapping[str, Evidence]
    ranked: tuple[str, ...]
    differences: Differences
    spread: Spread
    targets: Mapping[str, float]

    def short(self, *, target: float, alpha: float) -> frozenset[str]:
        """Name the sites whose sensitivity lies below the target beyond chance; of `adjusted` comparisons."""
        rates = {site: item.confusion.sensitivity for site, item in self.known.items() if item.confusion}
        return frozenset(
            site for site, p in self.targets.items() if p < alpha and rates[site].k < target * rates[site].n
        )

    def raw(self) -> dict[Hypothesis, float]:
        """List the hypotheses, each with its p."""
        return dict(self._raw())

    def _raw(self) -> Iterator[tuple[Hypothesis, float]]:
        for measure, ones in self.differences.items():
            for one in ones:
                yield (self.finding, measure, one.site), one.p
        for measure, whole in self.spread.items():
            if whole is not None:
                yield (self.finding, measure), whole.p
        for site, p in self.targets.items():
            yield (self.finding, "target", site), p

    def adjusted(self, family: Adjusted) -> "Comparisons":
        """Put the family's p in.

        Where all sites share one value, each is like the others: whoever has shown that one site is not has shown that
        they do not all share one. So the p of the spread is never above that of a site.
        """
        differences = {
            measure: tuple(replace(one, adjusted_p=family[self.finding, measure, one.site]) for one in ones)
            for measure, ones in self.differences.items()
        }
        spread = {}
        for measure, whole in self.spread.items():
            own = [one.adjusted_p for one in differences[measure]]
            least = min([family.get((self.finding, measure), 1.0), *own])
            spread[measure] = replace(whole, adjusted_p=least) if whole else None
        targets = {site: family[self.finding, "target", site] for site in self.targets}
        return replace(self, differences=differences, spread=spread, targets=targets)


def compare(finding: str, test: Mapping[str, Evidence], *, wish: Evaluation, seed: int) -> Comparisons:
    """Compare every site of which there is evidence on one finding.

    A site is ranked, and compared, with at least `min_positives_to_rank` positives, and a negative.
    """
    known = {site: item for site, item in sorted(test.items()) if item.units and item.confusion}
    ranked = tuple(
        site
        for site, item in known.items()
        if item.histogram.n_pos >= wish.min_positives_to_rank and item.histogram.n_neg > 0
    )
    rates = by_measure({site: item.confusion for site, item in known.items() if item.confusion})
    tables = rates | {SHARE: _shares(known)}
    return Comparisons(
        finding=finding,
        known=known,
        ranked=ranked,
        differences={
            measure: tuple(
                one for one in site_differences(counts, confidence=wish.confidence, seed=seed) if one.site in ranked
            )
            for measure, counts in tables.items()
        },
        spread={measure: heterogeneity(counts, seed=seed) for measure, counts in rates.items()},
        targets={site: target_p(rates["sensitivity"][site], known[site].positive_patients, wish) for site in ranked},
    )


def _shares(known: Mapping[str, Evidence]) -> dict[str, Count]:
    """Count each site's positives; a patient's exams mostly share their truth, and count as alike."""
    return {
        site: Count(k=item.histogram.n_pos, n=item.units, design_effect=max(1.0, item.units / item.patients))
        for site, item in known.items()
    }
