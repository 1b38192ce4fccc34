"""From released evidence and descriptions to the domain shift of a study: differences, distances, what leads."""

from collections.abc import Mapping
from types import MappingProxyType

from server.admission import Refused
from server.explanation import Explanation
from server.image_shift import CrossFitted, recognitions, site_pairs
from server.leading import leading
from server.results import DomainShift
from server.shortcuts import corner_findings
from server.validation import Evaluations, rate_counts, released
from shared.description import Description
from shared.domain_shift import heterogeneity, site_differences
from shared.protocol import StudyProtocol


def domain_shift(
    protocol: StudyProtocol,
    test: Evaluations,
    descriptions: Mapping[str, Description | Refused],
    told: Mapping[str, Mapping[str, Explanation]],
    cross_fitted: Mapping[str, Mapping[str, CrossFitted]] = MappingProxyType({}),
) -> DomainShift:
    """Compare the sites' test patients at the shared operating point and their images, target by target.

    `told` is `[finding][site]`, with no entry for a finding without an operating point.
    """
    targets, confidence = protocol.task.targets, protocol.evaluation.confidence
    tables = {target: rate_counts(test, place) for place, target in enumerate(targets) if target in told}
    seed = protocol.random_seed("heterogeneity")
    corners = {
        target: corner_findings(descriptions, place, confidence=confidence) for place, target in enumerate(targets)
    }
    alpha = round(1 - confidence, 12)
    return DomainShift(
        heterogeneity={
            target: {measure: heterogeneity(counts, seed=seed) for measure, counts in table.items()}
            for target, table in tables.items()
        },
        differences={
            target: {
                measure: site_differences(counts, confidence=confidence, seed=seed) for measure, counts in table.items()
            }
            for target, table in tables.items()
        },
        distances=site_pairs(descriptions),
        site_identifiability=recognitions(
            descriptions,
            {target: released(test, place) for place, target in enumerate(targets)},
            confidence=confidence,
            seed=seed,
            cross_fitted=cross_fitted,
        ),
        corners={target: one.blanked for target, one in corners.items()},
        marks={target: one.marks for target, one in corners.items()},
        leading={target: leading(told[target], corners[target], alpha=alpha) for target in told},
    )
