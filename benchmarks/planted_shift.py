"""Whether the demo leads with its planted shift: its study over many seeds, each on two kinds of a processor's work.

python -m benchmarks.planted_shift --out RUNS [--first 0] [--seeds 20] [--settings widest,avx2]

A run holds if its summary names `south` as where the model is least safe, and is sure that it falls short there; no
other hospital falls short; and the report's leading statement names `south`'s gap, be it beside a mark at another. What
the demo makes, and nothing else, is run: no baseline. One line a run in RUNS/runs.jsonl; a run that is there is not
done again.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from safetensors.numpy import load_file

from server.leading import Cause, Leading
from server.results import StudyResult
from server.results_json import read
from server.summary import Standing, least_safe, stands
from simulations.synthetic_study import MARKED, SHIFTED

STUDY = Path(__file__).parents[1] / "simulations" / "studies" / "quickstart.toml"

SETTINGS: Mapping[str, Mapping[str, str]] = {
    "widest": {},
    # ATen, oneDNN and MKL each choose their instructions by themselves.
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "two threads": {"OMP_NUM_THREADS": "2"},
}
"""Environments in which the same arithmetic is rounded otherwise; one thread where nothing else is said."""

GAPS = (Cause.THRESHOLD, Cause.DISCRIMINATION, Cause.BOTH, Cause.UNCLEAR)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What the report of one run says; `p` is that of the target at `south`, adjusted over the study's one family."""

    seed: int
    setting: str
    holds: bool
    least_safe: str
    found: str
    p: float
    short: Sequence[str]
    leads: str
    beside: str
    mark: bool
    auc: float
    model: str
    cpu_seconds: float


def main() -> None:
    """Run what has not been run yet, print each run, and end with 1 if one of them does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--settings", default="widest,avx2", help=", ".join(SETTINGS))
    asked = parser.parse_args()
    settings = asked.settings.split(",")
    if unknown := sorted(set(settings) - set(SETTINGS)):
        parser.error(f"there is no setting {unknown[0]!r}. Known: {', '.join(SETTINGS)}")
    asked.out.mkdir(parents=True, exist_ok=True)
    lines = asked.out / "runs.jsonl"
    known = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    done = {(one["seed"], one["setting"]): one for one in known}
    for seed in range(asked.first, asked.first + asked.seeds):
        for setting in settings:
            if (seed, setting) not in done:
                done[seed, setting] = asdict(_trial(asked.out, seed, setting))
                with lines.open("a") as file:
                    file.write(json.dumps(done[seed, setting]) + "\n")
            print(done[seed, setting], flush=True)
        shutil.rmtree(_hospitals(asked.out, seed), ignore_errors=True)
    for setting in settings:
        ran = [one for (_, name), one in done.items() if name == setting]
        held, marks = sum(one["holds"] for one in ran), sum(one["mark"] for one in ran)
        print(f"{setting}: holds in {held} of {len(ran)} runs; the mark at {MARKED} is found in {marks}")
    sys.exit(not all(one["holds"] for one in done.values()))


def _trial(out: Path, seed: int, setting: str) -> Trial:
    """Run the demo once; the hospitals of a seed are made in its first run, and stay for the next."""
    run, hospitals = out / "run", _hospitals(out, seed)
    shutil.rmtree(run, ignore_errors=True)
    command = [str(Path(sys.executable).with_name("polyclinic")), "simulate", str(STUDY), "--seed", str(seed)]
    command += ["--out", str(run), "--device", "cpu", *(["--sites", str(hospitals)] if hospitals.is_dir() else [])]
    before = _cpu_seconds()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **SETTINGS[setting]}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
    if (run / "hospitals").is_dir():
        (run / "hospitals").rename(hospitals)
    return judged(
        read(run / "results.json"),
        seed=seed,
        setting=setting,
        model=_digest(run / "model.safetensors"),
        cpu_seconds=_cpu_seconds() - before,
    )


def _hospitals(out: Path, seed: int) -> Path:
    return out / f"hospitals-{seed}"


def _digest(model: Path) -> str:
    """Digest a model's arrays, and nothing of what else its file says."""
    arrays = load_file(model)
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()[:12]


def _cpu_seconds() -> float:
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def judged(result: StudyResult, *, seed: int, setting: str, model: str, cpu_seconds: float) -> Trial:
    """Read off a report's facts whether the planted shift leads."""
    (finding,) = result.study.findings
    worst, lead = least_safe(result), result.domain_shift.leading[finding]
    gap = lead.beside if lead.cause is Cause.MARK else lead
    short = [one.site for one in stands(result, finding) if one.standing is Standing.SHORT]
    there = next(one for one in stands(result, finding) if one.site == SHIFTED)
    reached, auc = there.test.sensitivity, result.of_pool("test", finding).auc
    marks = result.domain_shift.marks[finding].get(MARKED, ())
    return Trial(
        seed=seed,
        setting=setting,
        holds=worst is not None
        and (worst.site, short) == (SHIFTED, [SHIFTED])
        and gap is not None
        and gap.site == SHIFTED
        and gap.cause in GAPS,
        least_safe=worst.site if worst else "",
        found=f"{reached.k} of {reached.n}" if reached else "",
        p=1.0 if there.p is None else there.p,
        short=short,
        leads=_words(lead),
        beside=_words(lead.beside) if lead.beside else "",
        mark=any(one.adjusted_p < result.study.significance for one in marks),
        auc=auc.value if auc else 0.0,
        model=model,
        cpu_seconds=round(cpu_seconds, 1),
    )


def _words(lead: Leading) -> str:
    return f"{lead.cause.value} at {lead.site}" if lead.site else lead.cause.value


if __name__ == "__main__":
    main()
