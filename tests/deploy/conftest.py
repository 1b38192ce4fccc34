"""The files of deploy/, as the tests of this folder read them."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def deploy() -> Path:
    """Give the folder deploy/."""
    return Path(__file__).parents[2] / "deploy"
