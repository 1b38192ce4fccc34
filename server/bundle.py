"""The bundle that travels to sites: a manifest without code, the same bytes wherever it is built."""

import hashlib
from importlib.resources import files

from flwr.cli.build import build_fab_from_files

FOLDER = "flower"
"""Package data of this room; deploy/flower leads here."""


def build_bundle() -> bytes:
    """Build the bundle (Flower's FAB) from the manifest that is installed with this package."""
    parts = {part.name: part.read_bytes() for part in sorted(files("server").joinpath(FOLDER).iterdir(), key=str)}
    return build_fab_from_files(parts)[0]


def bundle_digest(bundle: bytes) -> str:
    """Give the SHA-256 by which Flower and every site know a bundle."""
    return hashlib.sha256(bundle).hexdigest()
