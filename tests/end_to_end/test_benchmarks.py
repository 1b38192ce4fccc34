"""Each benchmark runs, at a tiny size, and says what it found; how fast anything is, is no test's business."""

import importlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as program
from benchmarks.record import Record, Target, collect
from benchmarks.sides import Sample, median_of, tree_cpu_seconds
from benchmarks.workload import TINY
from server.leading import Cause, Leading
from server.results_json import read

IN_THIS_PROCESS = ("aggregation", "exchange", "simulation", "memory", "frozen_backbone", "private_step")
"""Their sides are run one after the other here: ten processes that import torch would take a minute."""

KEYS = {"name", "value", "unit", "target", "holds", "against", "machine"}


@contextmanager
def side_in_this_process(make, *, environment, **settings) -> Iterator[Callable[[], Sample]]:
    """Stand in for a process of its own."""
    work = make(**settings)
    yield lambda: Sample(result=work(), cpu_seconds=1.0, wall_seconds=1.0, peak_bytes=1000)


@pytest.mark.parametrize("name", IN_THIS_PROCESS)
def test_a_benchmark_runs_and_finds_something(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every record has a name of its own, a value or the reason why there is none, and what it was measured against."""
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(module, "side", side_in_this_process)
    monkeypatch.setattr("benchmarks.exchange._replace", monkeypatch.setattr)
    records = list(module.run(TINY))
    assert len({record.name for record in records}) == len(records) > 0
    assert all(record.against and record.unit and record.name.startswith(name) for record in records)
    assert all(record.value is None or record.value > 0 for record in records)


def test_the_relay_is_timed_inside_a_courier_of_its_own() -> None:
    """Seconds, and memory before and at its height, of a real courier's process."""
    records = {record.name: record for record in importlib.import_module("benchmarks.relay").run(TINY)}
    assert set(records) == {"relay", "relay_memory_before", "relay_memory_peak"}
    assert records["relay_memory_before"].holds
    assert 0 < records["relay_memory_before"].value <= records["relay_memory_peak"].value


@pytest.mark.nightly
def test_an_empty_round_is_timed_over_the_real_programs() -> None:
    """Ours, that goes on to the agent, Flower's own, and their ratio, from ten processes that are started for it."""
    records = {record.name: record for record in importlib.import_module("benchmarks.empty_round").run(TINY)}
    assert set(records) == {"empty_round", "empty_round_flower", "empty_round_ratio"}
    assert all(record.value > 0 for record in records.values())


def test_the_program_collects_what_real_processes_find(tmp_path, monkeypatch, capsys) -> None:
    """`python -m benchmarks NAME` starts its sides, prints what they find and writes it with the agreed keys alone."""
    monkeypatch.setattr(program, "FULL", TINY)
    monkeypatch.setattr(program, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr("sys.argv", ["benchmarks", "cached_image"])
    program.main()
    written = json.loads((tmp_path / "results.json").read_text())
    assert [entry["name"] for entry in written] == ["cached_image_1", "cached_image_3"]
    assert all(set(entry) == KEYS and entry["value"] > 0 for entry in written)
    assert capsys.readouterr().out.count("cached_image") == 2


def test_the_program_knows_every_benchmark(monkeypatch, capsys) -> None:
    """Each name is a module with a `run`; another name is a usage error that lists them."""
    assert all(hasattr(importlib.import_module(f"benchmarks.{name}"), "run") for name in program.NAMES)
    monkeypatch.setattr("sys.argv", ["benchmarks", "speed"])
    with pytest.raises(SystemExit):
        program.main()
    assert "aggregation" in capsys.readouterr().err


def test_without_ray_the_benchmark_says_so(monkeypatch) -> None:
    """Where Ray is not installed the row is there, without a value and with the reason."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    (record,) = importlib.import_module("benchmarks.flower_on_ray").run(TINY)
    assert record.value is None
    assert "not installed" in record.against


def test_different_work_is_not_compared() -> None:
    """Where the two sides of the simulation end with different weights there is no ratio."""
    check = importlib.import_module("benchmarks.simulation")._how_alike
    samples = [
        [Sample(result={"w": value}, cpu_seconds=1.0, wall_seconds=1.0, peak_bytes=1)] for value in (1.0, 1.000001, 2.0)
    ]
    assert "bit for bit" in check(samples[0], samples[0])
    assert "within" in check(samples[0], samples[1])
    with pytest.raises(RuntimeError, match="same work"):
        check(samples[0], samples[2])


def test_a_record_replaces_its_elder_in_place(tmp_path) -> None:
    """Running one benchmark again leaves the others' findings and their order as they were."""
    file = tmp_path / "results.json"
    target = Target(limit=2, side="at most")
    first, second = (Record(name=name, value=3.0, unit="s", against="x", target=target) for name in "ab")
    collect([first, second], file)
    collect([Record(name="a", value=1.0, unit="s", against="x", target=target)], file)
    assert [(entry["name"], entry["holds"]) for entry in json.loads(file.read_text())] == [("a", True), ("b", False)]
    assert "DOES NOT HOLD" in str(second)


def test_the_medians_interval_is_conovers() -> None:
    """For 10 values the 95 % interval goes from the second to the last but one; for 3, from end to end."""
    found = median_of([float(value) for value in range(10, 0, -1)])
    assert (found.value, found.low, found.high) == (5.5, 2.0, 9.0)
    assert (median_of([3.0, 1.0, 2.0]).low, median_of([3.0, 1.0, 2.0]).high) == (1.0, 3.0)


def test_cpu_seconds_only_grow() -> None:
    """What a process and its descendants have used is read from the system and is not negative."""
    before = tree_cpu_seconds()
    assert 0 < before <= tree_cpu_seconds()


def test_the_site_probe_judges_every_projection_and_pair() -> None:
    """Normal sites of 90, 80 and 45 patients: both comparisons of the pair that halves bear, one of the others.

    What lies in the interval or on its end holds, and nothing else does.
    """
    probe = importlib.import_module("benchmarks.site_probe")
    rng = np.random.default_rng(0)
    known = {
        name: rng.standard_normal((patients, 64)) + shift for name, patients, shift in (("a", 90, 0), ("b", 80, 0.3))
    } | {"c": rng.standard_normal((45, 64))}
    held = list(probe.judge(known, seeds=range(3, 5), fit="crop", confidence=0.95))
    assert [(one.pair, one.fitted_on) for one in held] == 2 * [
        ("a, b", "all"),
        ("a, b", "half"),
        ("a, c", "all"),
        ("b, c", "all"),
    ]
    assert sum(one.holds for one in held) >= 7
    for found, holds in ((held[0].told.low, True), (held[0].told.low - 1e-3, False), (1.001, False)):
        assert replace(held[0], found=found).holds == holds


GAP = Leading(cause=Cause.DISCRIMINATION, site="st_marys", p=0.001)
MARK = Leading(cause=Cause.MARK, site="riverside", p=0.001, corner="upper left", area=0.9)


@pytest.mark.parametrize(
    ("lead", "short", "holds"),
    [
        (GAP, {"st_marys"}, True),
        (replace(MARK, beside=GAP), {"st_marys"}, True),
        (MARK, {"st_marys"}, False),
        (replace(GAP, cause=Cause.MARKER), {"st_marys"}, False),
        (replace(GAP, cause=Cause.PREVALENCE), {"st_marys"}, False),
        (replace(GAP, site="northgate"), {"st_marys"}, False),
        (GAP, {"st_marys", "riverside"}, False),
        (GAP, set(), False),
    ],
)
def test_a_planted_shift_leads_or_it_does_not(
    monkeypatch: pytest.MonkeyPatch, lead: Leading, short: set[str], holds: bool
) -> None:
    """It holds where the planted site alone is sure to fall short, and its gap leads, be it beside another's mark."""
    trial = importlib.import_module("benchmarks.planted_shift")
    monkeypatch.setattr(trial, "SHIFTED", "st_marys")
    monkeypatch.setattr(trial, "MARKED", "riverside")
    sample = read(Path(__file__).parents[1] / "golden" / "study_result.json")
    shift = replace(
        sample.domain_shift,
        leading={"pneumonia": lead},
        targets={"pneumonia": {site: 0.001 if site in short else 1.0 for site in sample.sites}},
    )
    point = sample.operating_point["pneumonia"]
    assert point
    result = replace(
        sample,
        study=replace(sample.study, findings=("pneumonia",)),
        operating_point={"pneumonia": replace(point, target=0.999)},  # no site reaches it: p decides who falls short
        domain_shift=shift,
    )
    found = trial.judged(result, seed=0, setting="widest", model="", cpu_seconds=0.0)
    assert (found.holds, set(found.short), found.least_safe) == (holds, short, "st_marys")
