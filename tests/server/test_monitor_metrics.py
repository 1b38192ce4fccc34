"""The coordinator's figures for Prometheus: present once known, absent before, and each name declared."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.live_run import LiveRun, LiveSite
from server.monitor_metrics import COUNTERS, GAUGES, NAMES, UNREADABLE, RunMetrics
from server.results_json import read

GOLDEN = Path(__file__).parents[1] / "golden" / "study_result.json"

QUIET = LiveSite(
    name="west", state="", heard="", package="", refusal=None, refusals={}, late=0, last={}, rates={}, auc={}
)
NORTH = LiveSite(
    name='no"rth\n',
    state="answered",
    heard="2026-03-01T12:00:00+00:00",
    package="0.1.0",
    refusal=None,
    refusals={"no_reply": 2},
    late=1,
    last={
        "loss_by_epoch": [0.5, 0.25],
        "update_norm": 1.5,
        "update_bytes": 4000,
        "seconds": 2.5,
        "images_per_second": 80.0,
    },
    rates={"opacity": {"sensitivity": (9, 10), "specificity": (1, 4)}},
    auc={"opacity": 0.75},
)


@pytest.fixture
def live(tiny: Any) -> LiveRun:
    """Give a run of two sites, of which one was heard."""
    protocol = tiny.protocol()
    return LiveRun(
        name="tiny",
        protocol=protocol,
        digest=protocol.digest(),
        stage="rounds",
        since="",
        failure="",
        records=({"lost": True, "seconds": 3.0}, {"lost": False, "seconds": 4.0}),
        sites=(NORTH, QUIET),
        result=None,
    )


def samples(*runs: LiveRun, unreadable: int = 0) -> dict[tuple[str, ...], float]:
    page = RunMetrics(lambda: (list(runs), unreadable)).page().decode()
    return {
        (one.name, *(value for key, value in sorted(one.labels.items()) if key != "run")): one.value
        for family in text_string_to_metric_families(page)
        for one in family.samples
        if not one.name.endswith("_created")
    }


def test_every_figure_of_a_run_is_on_the_page(live: LiveRun) -> None:
    """Each site's state, sensitivity, update and speed, and the run's progress, with the values that the run has."""
    north, found = NORTH.name, samples(live, unreadable=1)
    expected = {
        (UNREADABLE,): 1,
        ("polyclinic_run_info", live.digest, "Tiny"): 1,
        ("polyclinic_run_stage", "rounds"): 1,
        ("polyclinic_run_running",): 1,
        ("polyclinic_run_rounds_planned",): 2,
        ("polyclinic_run_rounds_total",): 2,
        ("polyclinic_run_rounds_lost_total",): 1,
        ("polyclinic_run_round_seconds",): 4,
        ("polyclinic_run_site_state", north, "answered"): 1,
        ("polyclinic_run_site_heard_timestamp_seconds", north): 1772366400,
        ("polyclinic_run_site_sensitivity", "opacity", north): 0.9,
        ("polyclinic_run_site_specificity", "opacity", north): 0.25,
        ("polyclinic_run_site_auc", "opacity", north): 0.75,
        ("polyclinic_run_site_update_norm", north): 1.5,
        ("polyclinic_run_site_update_bytes", north): 4000,
        ("polyclinic_run_site_train_seconds", north): 2.5,
        ("polyclinic_run_site_images_per_second", north): 80,
        ("polyclinic_run_site_loss", north): 0.25,
        ("polyclinic_run_site_updates_refused_total", "no_reply", north): 2,
        ("polyclinic_run_site_late_replies_total", north): 1,
        ("polyclinic_run_site_late_replies_total", "west"): 0,
    }
    assert found == expected


def test_a_run_that_ended_shows_its_test_figures_and_does_not_run(live: LiveRun) -> None:
    """At the end each site's sensitivity on test patients is there; a suppressed one is absent, and not 0."""
    result = read(GOLDEN)
    found = samples(dataclasses.replace(live, stage="finished", result=result))
    assert found[("polyclinic_run_running",)] == 0
    shown = {key[1:]: value for key, value in found.items() if key[0] == "polyclinic_run_site_test_sensitivity"}
    known = {
        (finding, site): rate.value
        for site in result.site_names
        for finding in result.study.findings
        if (rate := result.of_site(site, "test", finding).sensitivity)
    }
    assert shown == known
    assert 0 < len(known) < len(result.site_names) * len(result.study.findings)


def test_no_name_is_on_the_page_that_is_not_declared(live: LiveRun) -> None:
    """The declared names are what alerts and dashboard are checked against, so none may be missing or extra."""
    ended = dataclasses.replace(live, name="other", result=read(GOLDEN))
    assert {key[0] for key in samples(live, ended)} == NAMES == {*GAUGES, *COUNTERS, UNREADABLE}


def test_a_private_study_shows_no_loss(live: LiveRun) -> None:
    """A round without losses leaves the figure out."""
    private = dataclasses.replace(NORTH, last={**NORTH.last, "loss_by_epoch": []})
    names = {key[0] for key in samples(dataclasses.replace(live, sites=(private,)))}
    assert "polyclinic_run_site_loss" not in names
    assert "polyclinic_run_site_update_norm" in names
