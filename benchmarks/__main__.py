"""All benchmarks, or those that are named: prints what each finds and collects it in benchmarks/results.json.

python -m benchmarks [NAME ...]
"""

import argparse
import importlib
from pathlib import Path

from benchmarks.record import collect
from benchmarks.workload import FULL

NAMES = ("aggregation", "exchange", "simulation", "memory", "cached_image", "frozen_backbone")
RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    """Run the benchmarks one after the other; a finding is kept as soon as it is made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *NAMES], metavar="NAME", help=", ".join(NAMES))
    for name in parser.parse_args().names or NAMES:
        for record in importlib.import_module(f"benchmarks.{name}").run(FULL):
            print(record, flush=True)
            collect([record], RESULTS)


if __name__ == "__main__":
    main()
