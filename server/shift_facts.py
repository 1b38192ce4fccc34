"""From released evidence and descriptions to what stands out in a study: every test made, and adjusted once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from server.admission import Refused
from server.comparisons import compare
from server.explanation import MEASURES, Explanation, explanations
from server.family import Kind, Raw, adjusted
from server.image_shift import CrossFitted, recognitions, share_hypotheses, site_pairs
from server.leading import leading
from server.results import DomainShift
from server.shortcuts import corner_findings
from server.subgroup_results import Subgroups, subgroups
from shared.description import Description
from shared.evidence import Evidence
from shared.operating_point import OperatingPoint
from shared.protocol import Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the study shows of its sites beside each other: `shift`, and `[finding][site]` and by finding what is in it.

    Findings without an operating point have no entry. `tested` is how many hypotheses the one family has.
    """

    shift: DomainShift
    explanations: Mapping[str, Mapping[str, Explanation]]
    subgroups: Mapping[str, Subgroups]
    tested: int


def what_stands_out(
    test: Mapping[str, Mapping[str, Evidence]],
    descriptions: Mapping[str, Description | Refused],
    points: Mapping[str, OperatingPoint | None],
    *,
    findings: Sequence[str],
    wish: Evaluation,
    seed: Callable[[str], int],
    cross_fitted: Mapping[str, Mapping[str, CrossFitted]] = MappingProxyType({}),
) -> Judgement:
    """Compare the sites' test patients at the shared operating point and their images, and adjust all p once.

    `test` is `[finding][site]`, `findings` are in the order of the descriptions, and `seed` gives that of a named
    purpose.
    """
    confidence, dealt = wish.confidence, seed("heterogeneity")
    known = {finding: point for finding in findings if (point := points.get(finding))}
    raw_sites = {finding: compare(finding, test[finding], wish=wish, seed=dealt) for finding in known}
    raw_corners = {
        finding: corner_findings(descriptions, place, confidence=confidence) for place, finding in enumerate(findings)
    }
    raw_groups = {
        finding: subgroups(test[finding], wish=wish, seed=seed("subgroups")) for finding in known if wish.subgroups
    }
    shares = share_hypotheses(descriptions, test, confidence=confidence, seed=dealt)
    raw: Raw = {
        Kind.SITES: {name: p for one in raw_sites.values() for name, p in one.raw().items()},
        Kind.IMAGES: {name: p for finding, one in raw_corners.items() for name, p in one.raw(finding).items()} | shares,
        Kind.SUBGROUPS: {name: p for finding, one in raw_groups.items() for name, p in one.raw(finding).items()},
    }
    family = adjusted(raw)
    sites = {finding: one.adjusted(family) for finding, one in raw_sites.items()}
    corners = {finding: one.adjusted(finding, family) for finding, one in raw_corners.items()}
    told = {
        finding: explanations(one, threshold=known[finding].threshold, confidence=confidence, seed=seed("explanations"))
        for finding, one in sites.items()
    }
    alpha = round(1 - confidence, 12)
    shift = DomainShift(
        heterogeneity={finding: one.spread for finding, one in sites.items()},
        differences={
            finding: {measure: one.differences[measure] for measure in MEASURES} for finding, one in sites.items()
        },
        targets={finding: one.targets for finding, one in sites.items()},
        distances=site_pairs(descriptions),
        site_identifiability=recognitions(descriptions, family, confidence=confidence, cross_fitted=cross_fitted),
        corners={finding: one.blanked for finding, one in corners.items()},
        marks={finding: one.marks for finding, one in corners.items()},
        leading={
            finding: leading(
                told[finding],
                corners[finding],
                alpha=alpha,
                short=one.short(target=known[finding].target, alpha=alpha),
            )
            for finding, one in sites.items()
        },
    )
    return Judgement(
        shift=shift,
        explanations=told,
        subgroups={finding: one.adjusted(finding, family) for finding, one in raw_groups.items()},
        tested=len(family),
    )
