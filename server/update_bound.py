"""How far one site's update may move the model: no farther than the others' do."""

from collections.abc import Iterable

GROWTH = 2.0
"""How many times the last round's bound a round's may be, and how small a part of it. Without it a round in which the
honest sites happen to be missing would be measured by whoever is left: by a huge update, or by next to nothing, after
which all later rounds could hardly move the model."""


def round_bound(
    norms: Iterable[float], *, multiple: float, norm_bound: float, last: float | None = None
) -> float | None:
    """Give the largest L2 norm with which an update of this round enters; None where nothing bounds it.

    It is `multiple` × the lower median of the round's norms, between 1/GROWTH and GROWTH × the bound of the `last`
    round in which the same arrays trained, and at most the study's own `norm_bound`; 0 switches either off. While fewer
    than half of the sites lie, the lower median is at most the norm of an honest one, whatever the others send (Yin et
    al., ICML 2018, on medians). An update of nothing has no say: where most sites have nothing to learn from, one
    still does.
    """
    bounds = [norm_bound] if norm_bound else []
    told = sorted(norm for norm in norms if norm > 0)
    if multiple and told:
        bound = multiple * told[(len(told) - 1) // 2]
        bounds.append(bound if last is None else min(max(bound, last / GROWTH), GROWTH * last))
    return min(bounds, default=None)


def shrunk_to(bound: float | None, norm: float) -> float:
    """Say by what an update of this norm is multiplied: 1 within the bound, and less beyond it."""
    return 1.0 if bound is None or norm <= bound else bound / norm
