"""Fails where a room's tests reach fewer than 90 % of its branches: `room_coverage.py COVERAGE.json`.

Coverage's own limit is on lines and branches together, over all rooms together, and would let one hide another.
"""

import json
import sys
from collections import Counter
from pathlib import Path

LEAST_PERCENT = 90.0


def branches_by_room(report: dict) -> dict[str, float]:
    """Read coverage.py's JSON report; percent of branches that a test went through, by room."""
    reached, there = Counter(), Counter()
    for path, file in report["files"].items():
        room = Path(path).parts[0]
        reached[room] += file["summary"]["covered_branches"]
        there[room] += file["summary"]["num_branches"]
    return {room: 100 * reached[room] / total if total else 100.0 for room, total in there.items()}


def main(path: str) -> int:
    """Print each room's coverage; 1 if one has too little."""
    rooms = branches_by_room(json.loads(Path(path).read_text()))
    for room, percent in rooms.items():
        print(f"{room}: {percent:.1f} % of branches covered; at least {LEAST_PERCENT:.0f} % are asked for")
    return int(not rooms or min(rooms.values()) < LEAST_PERCENT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
