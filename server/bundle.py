"""The bundle that travels to sites: a manifest without code, the same bytes wherever it is built."""

import hashlib

from flwr.cli.build import build_fab_from_files

from shared.manifest import manifest


def build_bundle() -> bytes:
    """Build the bundle (Flower's FAB) from the manifest that is installed with this package."""
    return build_fab_from_files(manifest())[0]


def bundle_digest(bundle: bytes) -> str:
    """Give the SHA-256 by which Flower and every site know a bundle."""
    return hashlib.sha256(bundle).hexdigest()
