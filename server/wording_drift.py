"""A site's images against its own earlier ones, in words: what a distance is consistent with, and never its cause."""

from server.drift import Drift, SiteDrift, Why
from server.image_shift import Distance

_WHY = {
    Why.WITHHELD: "too few patients, or held back",
    Why.OTHER_IMAGES: "not comparable: the two studies prepare images in different ways",
    Why.OTHER_FEATURES: "not comparable: features of other weights, of another seed, or changed by training",
}


def headline(one: Drift) -> str:
    """Say at which sites images have moved."""
    moved = [site.site for site in one.sites if site.moved]
    known = [site for site in one.sites if any(isinstance(part, Distance) for part in (site.brightness, site.features))]
    if not known:
        return f"No site's images could be compared with its own earlier ones: {_why_none(one)}."
    if not moved:
        many = len(known) > 1
        none = f"At none of {len(known)} sites were images" if many else "At the only site compared no images were"
        return f"{none} shown to have moved. Small changes go unseen with few patients."
    return (
        f"Images have moved at {', '.join(moved)}: they lie farther from the earlier ones than random halves of one "
        "run do. That is consistent with a new scanner or new settings, with other patients, and with another way of "
        "choosing them. Figures of the earlier study may no longer hold there."
    )


def _why_none(one: Drift) -> str:
    reasons = {_WHY[part] for site in one.sites for part in (site.brightness, site.features) if isinstance(part, Why)}
    return "; ".join(sorted(reasons)) or "none took part in both runs"


def distance(one: Distance | Why) -> str:
    """Write a distance beside its null, or why there is none."""
    if isinstance(one, Distance):
        return f"{one.value:.3f} (within a run up to {one.null:.3f})"
    return _WHY[one]


def patients(one: SiteDrift) -> str:
    """Write of how many patients, then and now."""
    then, now = ("–" if count is None else f"{count:,}" for count in (one.patients_then, one.patients_now))
    return f"{then} → {now}"
