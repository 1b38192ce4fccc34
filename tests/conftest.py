"""Fixtures that more than one room's tests need."""

from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Give the folder of real films and odd DICOM files beside the checkout, or skip, saying so."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real films and odd DICOM files (../shared/data) is not beside this checkout")
    return SHARED_DATA
