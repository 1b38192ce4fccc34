"""All benchmarks, or those that are named: prints what each finds and collects it in benchmarks/results.json.

python -m benchmarks [NAME ...]
"""

import argparse
import importlib
from pathlib import Path

from benchmarks.record import collect
from benchmarks.workload import FULL

NAMES = (
    "aggregation",
    "exchange",
    "simulation",
    "memory",
    "cached_image",
    "frozen_backbone",
    "private_step",
    "flower_on_ray",
    "relay",
    "empty_round",
    "command_line",
)
RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    """Run the benchmarks one after the other; a finding is kept as soon as it is made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    asked = parser.parse_args().names
    if unknown := sorted(set(asked) - set(NAMES)):
        parser.error(f"there is no benchmark {unknown[0]!r}. Known: {', '.join(NAMES)}")
    for name in asked or NAMES:
        for record in importlib.import_module(f"benchmarks.{name}").run(FULL):
            print(record, flush=True)
            collect([record], RESULTS)


if __name__ == "__main__":
    main()
