"""Alerts and dashboards: every name is one that the programs export, and every alert comes when it should."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.exporter import UP
from client.metrics import NAMES as SITE_NAMES
from server.monitor_metrics import NAMES as COORDINATOR_NAMES

yaml = pytest.importorskip("yaml", reason="PyYAML reads rules: pip install pyyaml")

SIDES = {
    "client": {*SITE_NAMES, UP, "up"},
    "server": {*COORDINATOR_NAMES, "up"},
}
"""What a Prometheus on each side can know: what our programs export there, and its own `up`."""

DASHBOARDS = {"client": "client/grafana/site.json", "server": "server/grafana/dashboards/federation.json"}
NAME = re.compile(r"\b(?:polyclinic_\w+|up(?=[{\s=]))")


def promtool(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool here: apt-get install prometheus")
    return subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, timeout=60)


def rules(deploy: Path, side: str) -> list[dict[str, Any]]:
    file = yaml.safe_load((deploy / side / "prometheus/rules.yml").read_text(encoding="utf-8"))
    return [rule for group in file["groups"] for rule in group["rules"]]


def expressions(board: dict[str, Any]) -> Iterator[str]:
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for variable in board["templating"]["list"]:
        yield variable["definition"]


@pytest.mark.parametrize("side", SIDES)
def test_every_alert_comes_when_it_should(deploy: Path, side: str) -> None:
    """Promtool plays each alert's own story: when it is silent, when it comes, and with which words."""
    done = promtool(deploy / side / "prometheus", "test", "rules", "rules_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("side", SIDES)
def test_no_alert_is_without_a_story(deploy: Path, side: str) -> None:
    """Each alert is tried, both silent and ringing where it can be silent."""
    told = yaml.safe_load((deploy / side / "prometheus/rules_test.yml").read_text(encoding="utf-8"))
    tried = {one["alertname"] for test in told["tests"] for one in test["alert_rule_test"] if one["exp_alerts"]}
    assert tried == {rule["alert"] for rule in rules(deploy, side)}


@pytest.mark.parametrize("side", SIDES)
def test_alerts_name_only_what_is_exported(deploy: Path, side: str) -> None:
    """An alert on a name that no program exports would never come."""
    for rule in rules(deploy, side):
        names = set(NAME.findall(rule["expr"]))
        assert names, rule["alert"]
        assert names <= SIDES[side], rule["alert"]
        assert {"summary", "action"} <= set(rule["annotations"])


@pytest.mark.parametrize("side", SIDES)
def test_dashboards_name_only_what_is_exported_and_show_all_of_it(deploy: Path, side: str) -> None:
    """No panel stays empty for a misspelt name, and nearly every figure has its panel."""
    board = json.loads((deploy / DASHBOARDS[side]).read_text(encoding="utf-8"))
    shown = set(NAME.findall("\n".join(expressions(board))))
    assert shown <= SIDES[side]
    unseen = {"up", "polyclinic_site_info", "polyclinic_site_busy", "polyclinic_site_train_seconds"}
    unseen |= {"polyclinic_run_running", "polyclinic_monitor_unreadable_runs"}
    assert SIDES[side] - shown <= unseen
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@pytest.mark.parametrize("side", SIDES)
def test_prometheus_understands_every_panel(deploy: Path, side: str, tmp_path: Path) -> None:
    """Each expression of a dashboard is read by promtool as a rule's."""
    board = json.loads((deploy / DASHBOARDS[side]).read_text(encoding="utf-8"))
    written = [
        {"record": f"panel:{number}", "expr": expr}
        for number, expr in enumerate(expressions(board))
        if not expr.startswith("label_values")
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": written}]}))
    done = promtool(tmp_path, "check", "rules", "rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(written)} rules found" in done.stdout


def test_prometheus_and_grafana_find_one_another(deploy: Path) -> None:
    """The configuration is valid, reads the monitor by a name of its own, and the dashboard's source is there."""
    server = deploy / "server"
    done = promtool(server / "prometheus", "check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    scraped = yaml.safe_load((server / "prometheus/prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    compose = yaml.safe_load((server / "compose.yaml").read_text(encoding="utf-8"))["services"]
    (target,) = scraped[0]["static_configs"][0]["targets"]
    name, port = target.split(":")
    command = compose["monitor"]["command"]
    assert name == "monitor" == command[command.index("--name") + 1]
    assert compose["monitor"]["ports"] == [f"127.0.0.1:{port}:{port}"]
    (source,) = yaml.safe_load((server / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    board = json.loads((deploy / DASHBOARDS["server"]).read_text(encoding="utf-8"))
    assert {panel["datasource"]["uid"] for panel in board["panels"]} == {source["uid"]}
    (provider,) = yaml.safe_load((server / "grafana/provisioning/dashboards/polyclinic.yml").read_text())["providers"]
    assert f"./deploy/server/grafana/dashboards:{provider['options']['path']}:ro" in compose["grafana"]["volumes"]
