"""A study on real films over several patient splits: federated against each site alone and against pooled.

python -m benchmarks.real_films STUDY.toml --sites DIR --weights FILE --out RUNS [--first 0] [--splits 5] [--set ...]
    [--baselines local,pooled,blend]
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from server.finding_result import FindingResult
from server.results import FindingResults, StudyResult
from server.results_json import read

FEDERATED, POOLED = "federated", "pooled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One model on one site's test patients in one split: AUC with its interval."""

    split: int
    model: str
    site: str
    auc: float
    low: float
    high: float
    patients: int
    positives: int


def main() -> None:
    """Run what has not been run yet, and print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--sites", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--baselines", default="local,pooled")
    parser.add_argument("--set", action="append", default=[])
    asked = parser.parse_args()
    seeds = range(asked.first, asked.first + asked.splits)
    results = {seed: _run(asked, seed) for seed in seeds}
    for finding in results[asked.first].study.findings:
        scores = [score for split, result in results.items() for score in _scores(split, result, finding)]
        verdict = "\n".join([_verdict(scores), *_halves(results, finding)])
        print(f"\n### {finding}\n\n{_mean_table(scores)}\n\n{verdict}\n\n{_split_table(scores)}")


def _run(asked: argparse.Namespace, seed: int) -> StudyResult:
    folder = asked.out / f"split-{seed}"
    if not (folder / "results.json").exists():
        settings = [word for setting in asked.set for word in ("--set", setting)]
        resume = ["--resume"] if (folder / "protocol.toml").exists() else []
        command = [str(Path(sys.executable).with_name("polyclinic")), "simulate", str(asked.study), "--seed", str(seed)]
        command += ["--sites", str(asked.sites), "--weights", str(asked.weights), "--out", str(folder)]
        subprocess.run([*command, "--baselines", asked.baselines, *resume, *settings], check=True)  # noqa: S603
    return read(folder / "results.json")


def _scores(split: int, result: StudyResult, finding: str) -> Iterator[Score]:
    federated = {site: found["test"] for site, found in result.sites.items()}
    models: dict[str, dict[str, FindingResults]] = {FEDERATED: federated}
    models |= {f"{site} alone": dict(model.sites) for site, model in result.baselines.local.items()}
    models |= {POOLED: dict(result.baselines.pooled.sites)} if result.baselines.pooled else {}
    for model, sites in models.items():
        for site, findings in sites.items():
            if (score := _score(split, model, site, findings[finding])) is not None:
                yield score


def _score(split: int, model: str, site: str, found: FindingResult) -> Score | None:
    if found.auc is None or found.auc.low is None or found.auc.high is None:
        return None
    return Score(
        split=split,
        model=model,
        site=site,
        auc=found.auc.value,
        low=found.auc.low,
        high=found.auc.high,
        patients=found.patients or 0,
        positives=found.positives or 0,
    )


def _macro(scores: list[Score], model: str, split: int) -> float:
    """Give the mean over the sites of the AUC on their own test patients."""
    return statistics.fmean(score.auc for score in scores if (score.model, score.split) == (model, split))


def _models(scores: list[Score]) -> list[str]:
    return list(dict.fromkeys(score.model for score in scores))


def _mean_table(scores: list[Score]) -> str:
    """Tabulate the mean AUC over the splits, by model and test site; in brackets the lowest and highest split."""
    sites = sorted({score.site for score in scores})
    lines = [f"| trained | {' | '.join(sites)} | macro |", f"|---{'|---' * (len(sites) + 1)}|"]
    splits = sorted({score.split for score in scores})
    for model in _models(scores):
        cells = [[s.auc for s in scores if (s.model, s.site) == (model, site)] for site in sites]
        cells.append([_macro(scores, model, split) for split in splits])
        lines.append(f"| {model} | {' | '.join(_cell(values) for values in cells)} |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    return f"{statistics.fmean(values):.3f} [{min(values):.3f}, {max(values):.3f}]"


def _verdict(scores: list[Score]) -> str:
    """Say by how much the federated model's macro AUC beats each other one's, as mean over the splits and by split."""
    splits = sorted({score.split for score in scores})
    lines = []
    for model in _models(scores):
        if model != FEDERATED:
            gains = [_macro(scores, FEDERATED, split) - _macro(scores, model, split) for split in splits]
            shown = ", ".join(f"{gain:+.3f}" for gain in gains)
            lines.append(f"- federated minus {model}, macro AUC: {statistics.fmean(gains):+.3f} (by split: {shown})")
    own = [
        (site, [_at(scores, FEDERATED, site, n) - _at(scores, f"{site} alone", site, n) for n in splits])
        for site in sorted({score.site for score in scores})
    ]
    lines += [
        f"- federated minus {site} alone, on {site}'s own test patients: {statistics.fmean(gains):+.3f} "
        f"(by split: {', '.join(f'{gain:+.3f}' for gain in gains)})"
        for site, gains in own
    ]
    return "\n".join(lines)


def _halves(results: Mapping[int, StudyResult], finding: str) -> Iterator[str]:
    """Say how each site's own head and the federated one, half and half, do on its own test patients."""
    sites = sorted({site for result in results.values() for site in result.blended.get(finding, {})})
    for site in sites:
        owed = {n: run.blended[finding][site].auc for n, run in results.items() if site in run.blended[finding]}
        pairs = {split: auc for split, auc in owed.items() if auc is not None}
        shown = ", ".join(f"{auc.difference:+.3f} [{auc.low:+.3f}, {auc.high:+.3f}]" for auc in pairs.values())
        yield (
            f"- half and half on {site}'s own test patients: {_cell([auc.first for auc in pairs.values()])}; minus "
            f"{site} alone: {statistics.fmean(auc.difference for auc in pairs.values()):+.3f} (by split: {shown})"
        )


def _at(scores: list[Score], model: str, site: str, split: int) -> float:
    return next(s.auc for s in scores if (s.model, s.site, s.split) == (model, site, split))


def _split_table(scores: list[Score]) -> str:
    """Tabulate every AUC with its 95 % interval."""
    lines = ["| split | test site | patients | positives | trained | AUC | interval |", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {s.split} | {s.site} | {s.patients} | {s.positives} | {s.model} | {s.auc:.3f} | {s.low:.3f}–{s.high:.3f} |"
        for s in sorted(scores, key=lambda s: (s.split, s.site))
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
