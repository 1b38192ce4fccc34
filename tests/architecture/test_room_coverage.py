"""The limit on coverage is a limit on each room's branches."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("room_coverage.py")


@pytest.mark.parametrize(
    ("branches", "code"),
    [
        ({"shared/a.py": (9, 10), "client/b.py": (90, 100), "client/c.py": (0, 0)}, 0),
        ({"shared/a.py": (1000, 1000), "client/b.py": (89, 100)}, 1),
        ({}, 1),
    ],
    ids=["enough", "one room hides another", "nothing was measured"],
)
def test_a_room_with_too_few_branches_covered_fails(tmp_path, branches, code):
    """Nine of ten branches are asked of every room, whatever the others have."""
    report = tmp_path / "coverage.json"
    files = {
        path: {"summary": {"covered_branches": covered, "num_branches": total}}
        for path, (covered, total) in branches.items()
    }
    report.write_text(json.dumps({"files": files}))
    assert subprocess.run([sys.executable, SCRIPT, report], check=False).returncode == code
