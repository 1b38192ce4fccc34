"""What harmonising intensities did, in words: whose images lay farthest from the scale that all were brought to."""

import numpy as np

from server import wording
from server.results import Harmonised
from shared.landmarks import TENTHS as TENTHS
from shared.refusal_codes import Refusal


def sentence(one: Harmonised) -> str:
    """Say of how many sites the scale is the median, and which site's images it moved most."""
    known = {site: own for site, own in sorted(one.sites.items()) if own}
    moved = {site: float(np.abs(np.subtract(own.positions, one.standard)).mean()) for site, own in known.items()}
    farthest = max(moved, key=lambda site: moved[site])
    over = wording.units(len(known), "site")
    return (
        f"Images were brought to one scale of intensities, the median over {over}, each counting once. "
        f"{farthest}'s lay farthest from it, by {position(moved[farthest])} % of the range from black to white on "
        "average. That is consistent with another scanner or contrast curve there, and with other patients."
    )


def absent(one: Harmonised, site: str) -> str:
    """Say why a site's own landmarks are not known."""
    code = one.absent.get(site, Refusal.TOO_FEW_PATIENTS)
    why = "held back: too few patients" if code == Refusal.TOO_FEW_PATIENTS else f"not known: {wording.code(code)}"
    return f"{why}. Its images were brought to the others' standard."


def position(value: float) -> str:
    """Write a place between black and white as percent."""
    return f"{100 * value:.1f}"
