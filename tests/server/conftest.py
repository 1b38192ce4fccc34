"""The sample study of the report's tests: five invented sites (tests/golden/make_study_result.py)."""

from pathlib import Path

import pytest

from server.results import StudyResult
from server.results_json import read

GOLDEN = Path(__file__).parents[1] / "golden" / "study_result.json"


@pytest.fixture(scope="session")
def golden_result() -> Path:
    """Give the path of a results.json of the present schema."""
    return GOLDEN


@pytest.fixture(scope="session")
def study_result(golden_result: Path) -> StudyResult:
    """Give the sample study."""
    return read(golden_result)
