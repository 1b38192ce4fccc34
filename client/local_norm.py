"""The normalisation layers that a site keeps to itself, by round (FedBN)."""

from pathlib import Path

from safetensors.numpy import load_file, save

from client.workbench import Workbench
from shared.model import exchanged
from shared.storage import atomic_file


class LocalNorm:
    """Normalisation layers that never travel: each site goes on from its own (FedBN, Li et al. 2021).

    They are stored by run and round, so that a resumed round starts from the same ones; nothing else is in `folder`. An
    earlier version simulated with the runs' folders beside it, from which a run goes on.
    """

    def __init__(self, bench: Workbench, folder: Path) -> None:
        self._bench = bench
        self._folder = folder
        travelling = set(exchanged(bench.classifier, "stem", local_norm=True))
        self._names = [n for n in exchanged(bench.classifier, "stem", local_norm=False) if n not in travelling]
        self._initial = {name: array.copy() for name, array in bench.arrays(self._names).items()}

    def load(self, run_id: str, *, before: int) -> None:
        """Load the layers as this site's last round before `before` left them; else the initial ones."""
        places = (self._folder.parent / run_id, self._folder / run_id)
        known = sorted(
            (path for place in places for path in place.glob("norm-*.safetensors")), key=lambda path: path.name
        )
        earlier = [path for path in known if int(path.stem.removeprefix("norm-")) < before]
        self._bench.load(load_file(earlier[-1]) if earlier else self._initial)

    def save(self, run_id: str, *, after: int) -> None:
        """Store the layers as this round left them."""
        with atomic_file(self._folder / run_id / f"norm-{after:05d}.safetensors") as part:
            part.write_bytes(save(self._bench.arrays(self._names)))
