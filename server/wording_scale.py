"""What harmonising intensities did, in words: whose images lay farthest from the scale that all were brought to."""

import numpy as np

from server.results import Harmonised
from shared.landmarks import TENTHS as TENTHS


def sentence(one: Harmonised) -> str:
    """Say over how many sites the scale was averaged, and which site's images it moved most."""
    known = {site: own for site, own in sorted(one.sites.items()) if own}
    moved = {site: float(np.abs(np.subtract(own.positions, one.standard)).mean()) for site, own in known.items()}
    farthest = max(moved, key=lambda site: moved[site])
    return (
        f"Images were brought to one scale of intensities, averaged over {len(known)} sites, each counting once. "
        f"{farthest}'s lay farthest from it, by {position(moved[farthest])} % of the range from black to white on "
        "average. That is consistent with another scanner or contrast curve there, and with other patients."
    )


def position(value: float) -> str:
    """Write a place between black and white as percent."""
    return f"{100 * value:.1f}"
