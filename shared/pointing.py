"""What the pointing game measured of one model's maps, kept beside the model's file, and read where maps are shown."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.errors import DataError
from shared.storage import atomic_file

FORMAT = "polyclinic-pointing-1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointing:
    """`hits` of `films` maxima lay on the finding; `chance` is the mean share of the film that counts as a hit.

    A film of which nothing raises the score has no maximum, and is a miss.
    """

    finding: str
    method: str
    films: int
    hits: int
    chance: float


def measured_at(model: Path) -> Path:
    """Name the file that belongs to a model's."""
    return model.with_suffix(".pointing.json")


def write_pointing(model: Path, arrays_sha256: str, found: Sequence[Pointing]) -> Path:
    """Keep what was measured of the model with these arrays, and give the file's path.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    path = measured_at(model)
    said = {"format": FORMAT, "arrays_sha256": arrays_sha256, "found": [asdict(one) for one in found]}
    with atomic_file(path) as part:
        part.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    return path


def read_pointing(model: Path, arrays_sha256: str) -> tuple[Pointing, ...]:
    """Read what was measured of this very model; empty where nothing was.

    Raises:
        DataError: the file is not one of these, or is of another model.
    """
    path = measured_at(model)
    if not path.exists():
        return ()
    again = "Measure it again with `polyclinic study pointing`, or remove the file."
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        found = tuple(Pointing(**one) for one in said["found"])
        if said["format"] != FORMAT or not all(map(_whole, found)):
            raise ValueError("another form")
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise DataError(f"{path.name}: not what the pointing game writes ({type(fault).__name__}). {again}") from None
    if said["arrays_sha256"] != arrays_sha256:
        raise DataError(f"{path.name}: measured of another model than the one beside it. {again}")
    return found


def _whole(one: Pointing) -> bool:
    words, counts = (one.finding, one.method), (one.films, one.hits)
    return (
        all(isinstance(word, str) for word in words)
        and all(isinstance(count, int) for count in counts)
        and 0 <= one.hits <= one.films
        and one.films > 0
        and 0 <= one.chance <= 1
    )
