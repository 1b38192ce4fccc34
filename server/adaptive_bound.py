"""How far one site's update may move the model where the server optimiser rescales each element."""

import math
from collections.abc import Mapping

from server.combining import Part
from server.kept_updates import KeptUpdates
from server.update_bound import round_bound, shrunk_to
from shared.packing import pack
from shared.parameters import NamedArrays, chunks, squares


def held_to_the_step(
    kept: KeptUpdates, parts: Mapping[str, Part], gains: NamedArrays, *, multiple: float
) -> dict[str, float]:
    """Say by what each update is multiplied once more, so that none moves the model farther than the others do.

    FedAdam and FedYogi (Reddi et al. 2021) move each element by its first moment times a gain, which is large where
    updates were small. A site whose whole norm lies in such elements would move the model many times as far as an
    honest one, though both norms are the same. So the norm is taken where the model moves, of gain × update, and held
    to `multiple` times the lower median of the round's (docs/decisions/0021).
    """
    runs = pack(gains).runs
    norms = {
        site: part.scale
        * math.sqrt(
            sum(
                squares(chunk * gain[place])
                for run, gain in zip(kept.runs(site), runs, strict=True)
                for place, chunk in chunks(run)
            )
        )
        for site, part in parts.items()
    }
    bound = round_bound(norms.values(), multiple=multiple, norm_bound=0.0)
    return {site: shrunk_to(bound, norm) for site, norm in norms.items()}
