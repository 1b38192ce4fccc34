"""How far two sites' images lie apart, beside the spread within each, and how surely a patient's site is told."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType

from server.admission import Refused
from server.family import Adjusted, Hypothesis
from shared.description import Description
from shared.domain_shift import site_differences
from shared.evidence import Evidence
from shared.feature_summary import LEAST_DIMENSIONS, FeatureSummary, frechet
from shared.intensity import IntensitySummary, wasserstein
from shared.metrics import Count
from shared.site_identifiability import Identifiability, identifiability


@dataclass(frozen=True, slots=True, kw_only=True)
class Distance:
    """A distance between two sites, and the larger of the .95 quantiles of that between halves of either site."""

    value: float
    null: float

    @property
    def beyond(self) -> bool:
        """True where the sites are farther apart than halves of one site are."""
        return self.value > self.null


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePair:
    """Two sites' images without disease: brightness (Wasserstein) and features (Fréchet); None where too few patients.

    `dimensions` is that of the features' public projection.
    """

    one: str
    other: str
    brightness: Distance | None
    features: Distance | None
    dimensions: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossFitted:
    """How often a linear rule told the site of patients whom it was not fitted on, in simulation alone.

    `raw` is on all features, `projected` in the dimensions of what sites release.
    """

    raw: float
    projected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """How surely the site of a patient without disease is told, of two, and whether these differ in positives.

    `prevalence_p` is that of the permutation test of the finding whose share of positives differs most, adjusted for
    all pairs and findings; None where no share is known. A model that recognises such a site can guess the finding.
    """

    one: str
    other: str
    identifiability: Identifiability
    prevalence_p: float | None
    cross_fitted: CrossFitted | None = None


def site_pairs(descriptions: Mapping[str, Description | Refused]) -> tuple[SitePair, ...]:
    """Compare every two sites that both sent something to compare."""
    known = {site: one for site, one in sorted(descriptions.items()) if isinstance(one, Description)}
    pairs = (compared(one, other, known[one], known[other]) for one, other in combinations(known, 2))
    return tuple(pair for pair in pairs if pair.brightness or pair.features)


def mostly_apart(pairs: Sequence[SitePair]) -> frozenset[str]:
    """Name the sites whose brightness lies beyond the null from more than half of the others it is compared with."""
    known = [(pair, pair.brightness.beyond) for pair in pairs if pair.brightness]
    beyond = Counter(site for pair, far in known if far for site in (pair.one, pair.other))
    compared = Counter(site for pair, _ in known for site in (pair.one, pair.other))
    return frozenset(site for site, count in beyond.items() if 2 * count > compared[site])


def compared(one: str, other: str, here: Description, there: Description) -> SitePair:
    """Compare two descriptions, as far as both sides released something."""
    brightness, features, p = None, None, None
    if isinstance(here.intensity, IntensitySummary) and isinstance(there.intensity, IntensitySummary):
        brightness = Distance(
            value=wasserstein(here.intensity.shares, there.intensity.shares),
            null=max(here.intensity.split_null, there.intensity.split_null),
        )
    if isinstance(here.features, FeatureSummary) and isinstance(there.features, FeatureSummary):
        p = min(here.features.dimensions, there.features.dimensions)
        features = Distance(
            value=frechet(here.features.moments(p), there.features.moments(p)),
            null=max(here.features.null(p), there.features.null(p)),
        )
    return SitePair(one=one, other=other, brightness=brightness, features=features, dimensions=p)


def share_hypotheses(
    descriptions: Mapping[str, Description | Refused],
    test: Mapping[str, Mapping[str, Evidence]],
    *,
    confidence: float,
    seed: int,
) -> dict[Hypothesis, float]:
    """Test whether any two sites that could be told apart differ in positives; `test` is `[finding][site]`."""
    return {
        (finding, "shares", *pair): p
        for pair in _told_apart(descriptions)[1]
        for finding, items in test.items()
        if (p := _prevalence_p([items[site] for site in pair if site in items], confidence=confidence, seed=seed))
        is not None
    }


def recognitions(
    descriptions: Mapping[str, Description | Refused],
    family: Adjusted,
    *,
    confidence: float,
    cross_fitted: Mapping[str, Mapping[str, CrossFitted]] = MappingProxyType({}),
) -> tuple[Recognition, ...]:
    """Say of every two sites how surely they are told apart, and whether their shares of positives differ.

    `family` has the p of `share_hypotheses`; `cross_fitted`, which a simulation has beside it, is `[one][other]`.
    """
    known, pairs = _told_apart(descriptions)
    found = []
    for pair in pairs:
        told = identifiability(known[pair[0]], known[pair[1]], confidence=confidence)
        if told is not None:
            found.append(
                Recognition(
                    one=pair[0],
                    other=pair[1],
                    identifiability=told,
                    prevalence_p=min(_shares_p(pair, family), default=None),
                    cross_fitted=cross_fitted.get(pair[0], {}).get(pair[1]),
                )
            )
    return tuple(found)


def _told_apart(
    descriptions: Mapping[str, Description | Refused],
) -> tuple[dict[str, FeatureSummary], list[tuple[str, str]]]:
    known = {
        site: one.features
        for site, one in sorted(descriptions.items())
        if isinstance(one, Description) and isinstance(one.features, FeatureSummary)
    }
    return known, [pair for pair in combinations(known, 2) if known[pair[0]].dimensions >= LEAST_DIMENSIONS]


def _shares_p(pair: tuple[str, str], family: Adjusted) -> list[float]:
    return [p for name, p in family.items() if name[1:] == ("shares", *pair)]


def _prevalence_p(items: list[Evidence], *, confidence: float, seed: int) -> float | None:
    """Compare two sites' shares of positives; a patient's exams mostly share their truth, and count as alike."""
    counts = {
        str(place): Count(k=item.histogram.n_pos, n=item.units, design_effect=max(1.0, item.units / item.patients))
        for place, item in enumerate(items)
        if item.units
    }
    if len(counts) < 2:
        return None
    differences = site_differences(counts, confidence=confidence, seed=seed)
    return differences[0].p if differences else None
