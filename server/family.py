"""The study's one family of hypotheses: every test that a sentence of its pages rests on, adjusted once (Holm).

What is said of sites beside each other is decided here and nowhere else: summary, page, model card, and whatever is
made of results.json. The chance that a study says anything of this kind that is not so is at most 1 - confidence, over
all its findings and sites together: Holm's step-down method (Scand J Stat 1979;6:65) holds that under any dependence.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum

from shared.domain_shift import holm


class Kind(StrEnum):
    """Three kinds of tests, each of which begins with the same part of the error that is allowed.

    SITES: a ranked site's sensitivity, specificity and share of positives against all others', its sensitivity against
    the target, and whether all sites share one value. IMAGES: both corner tests, and the shares of positives of any two
    sites that can be told apart. SUBGROUPS: groups inside a site and over all.
    """

    SITES = "sites"
    IMAGES = "images"
    SUBGROUPS = "subgroups"


Hypothesis = tuple[str, ...]
"""What is tested: the finding, the measure, and where."""

Raw = Mapping[Kind, Mapping[Hypothesis, float]]
"""Every p of a study as its own test gave it."""

Adjusted = Mapping[Hypothesis, float]


def adjusted(raw: Raw) -> dict[Hypothesis, float]:
    """Adjust all p of a study at once.

    Holm's weights: within a kind all hypotheses weigh alike, and each kind that has any weighs as much as another, so
    that many corners don't drown a few hospitals. What a kind does not use up goes to the others.
    """
    found = list(_weighed(raw))
    p = holm([one for _, one, _ in found], weights=[weight for _, _, weight in found])
    return {name: one for (name, _, _), one in zip(found, p, strict=True)}


def _weighed(raw: Raw) -> Iterator[tuple[Hypothesis, float, float]]:
    for hypotheses in raw.values():
        for name, p in hypotheses.items():
            yield name, p, 1 / len(hypotheses)
