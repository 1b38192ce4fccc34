"""The manifest of which the bundle is made: without code, and known to either side before a bundle comes."""

import tomllib
import zlib
from importlib.resources import files
from io import BytesIO
from zipfile import BadZipFile, ZipFile

FOLDER = "flower"
"""Package data of this room; deploy/flower leads here."""

DECLARATION = "pyproject.toml"
CONTENTS = ".info/CONTENT"
"""Flower's own list of the files and their hashes."""

_LARGEST = 2**16
"""Bytes that a file of the bundle may unpack to; the manifest's have a hundredth of them."""


def manifest() -> dict[str, bytes]:
    """Give the manifest's files by name."""
    return {part.name: part.read_bytes() for part in sorted(files("shared").joinpath(FOLDER).iterdir(), key=str)}


def holds_the_manifest_alone(bundle: bytes) -> bool:
    """Tell whether a bundle (a FAB) has the manifest's files, with what they say, and no other file.

    Flower writes the declaration anew, so that its meaning is compared; all else, byte by byte.
    """
    own = manifest()
    try:
        with ZipFile(BytesIO(bundle)) as archive:
            if sorted(archive.namelist()) != sorted([CONTENTS, *own]):
                return False
            if any(part.file_size > _LARGEST for part in archive.infolist()):
                return False
            parts = {name: archive.read(name) for name in own}
        declared = tomllib.loads(parts.pop(DECLARATION).decode())
    except (BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, OSError, zlib.error):
        return False
    return declared == tomllib.loads(own.pop(DECLARATION).decode()) and parts == own
