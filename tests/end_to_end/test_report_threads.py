"""One parameter, one home: odd values, declared once, stand on the page of the finished study exactly as declared.

One small study with odd values of each; a test a parameter follows it to what it changes, and to where it is printed.
"""

import re
from typing import Any

import pytest
import torch

from server.finding_result import Why
from server.report import render
from server.results import StudyResult
from server.results_json import read
from server.run_folder import open_run
from shared.intervals import wilson
from shared.metrics import Count
from simulations.console import Console
from simulations.simulate import Simulation, simulate
from simulations.synthetic_site import write
from simulations.synthetic_study import plain_hospital

TARGET, CONFIDENCE, RANKED = 0.83, 0.87, 3
MIN_CELL = {"north": 2, "south": 31}


class Odd:
    """The finished study: its results, and its page as words."""

    def __init__(self, result: StudyResult) -> None:
        self.result = result
        body = render(result).partition("<body>")[2]
        self.words = " ".join(re.sub(r"<[^>]+>", " ", body).replace("\N{NO-BREAK SPACE}", " ").split())
        self.page = body


@pytest.fixture(scope="module")
def odd(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Odd:
    """Run a study with an odd target, level and limit of ranking, at hospitals with odd minima."""
    folder = tmp_path_factory.mktemp("odd")
    sites = folder / "sites"
    for name, least in MIN_CELL.items():
        site = plain_hospital(name, patients=60)
        write(site, sites / name, findings=["opacity"], exclusive=False, workers=1, progress=lambda *_: None)
        file = sites / name / "site.toml"
        text, changed = re.subn(r"min_cell = \d+", f"min_cell = {least}", file.read_text())
        assert changed == 1
        file.write_text(text)
    protocol = tiny.protocol(
        study={"name": "Odd", "seed": 11},
        task={"findings": ["opacity"], "unit": "patient"},
        evaluation={"target_sensitivity": TARGET, "confidence": CONFIDENCE, "min_positives_to_rank": RANKED},
        split={"train": 0.6, "validation": 0.2, "test": 0.2},
    )
    run = open_run(folder / "run", protocol, resume=False)
    threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    with Console() as console:
        simulate(
            Simulation(
                protocol=protocol,
                run=run,
                sites=sites,
                baselines=("local",),
                leave_one_out=False,
                weights_file=None,
                device="cpu",
            ),
            console,
        )
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(before)
    return Odd(read(run.results))


def test_the_target_sensitivity_reaches_the_page(odd: Odd) -> None:
    """The wish stands at the headline, in the table of targets, on the first page and on the figures."""
    point = odd.result.operating_point["opacity"]
    assert point.target == TARGET
    assert point.reached.value >= TARGET
    assert "83 % sensitivity wished" in odd.words
    assert "to reach 83 %" in odd.words
    assert "where 83 % was wished" in odd.words
    assert "target 83 %" in odd.words
    assert TARGET in [row.point.target for row in odd.result.other_thresholds["opacity"].table]


def test_the_interval_level_reaches_the_page(odd: Odd) -> None:
    """Every interval is named by it and has its width; no interval of another level is spoken of."""
    assert odd.result.study.significance == pytest.approx(1 - CONFIDENCE)
    assert set(re.findall(r"(\d+(?:\.\d+)?) % (?:prediction )?interval", odd.words)) == {"87"}
    pooled = odd.result.of_pool("test", "opacity").specificity
    assert pooled
    expected = wilson(Count(k=pooled.k, n=pooled.n), confidence=CONFIDENCE)
    assert expected
    assert (pooled.low, pooled.high) == pytest.approx((expected.low, expected.high))
    assert f"{expected.low * 100:.1f} to {expected.high * 100:.1f}" in odd.words


def test_the_limit_of_ranking_reaches_the_page(odd: Odd) -> None:
    """The number is printed, and a site is ranked exactly from it on."""
    assert f"A site with fewer than {RANKED} positives is shown hollow" in odd.words
    assert f"only with at least {RANKED} positives" in odd.words
    for site in odd.result.site_names:
        test = odd.result.of_site(site, "test", "opacity")
        if test.positives is not None:
            assert test.ranked == (test.positives >= RANKED and bool(test.negatives))


def test_the_hospitals_minimum_reaches_the_page(odd: Odd) -> None:
    """Every count on the page is at least the hospital's minimum; what is less is suppressed, and never a number."""
    hidden = shown = 0
    for name, flow in odd.result.patient_flow.items():
        for split in flow.splits.values():
            for count in (number for part in split.classes for number in part.all):
                hidden += count is None
                shown += count is not None
                assert count is None or count >= MIN_CELL[name]
    assert hidden
    assert shown
    table = odd.page.partition('aria-label="Patients by split"')[2].partition("</table>")[0]
    assert table.count("suppressed") >= hidden // 4
    assert odd.result.of_site("south", "test", "opacity").why is Why.SUPPRESSED
    assert "south" not in odd.result.receipts["opacity"]
    for pair in re.findall(r">(\d+) / (\d+)<", table):
        assert min(map(int, pair)) >= min(MIN_CELL.values())
