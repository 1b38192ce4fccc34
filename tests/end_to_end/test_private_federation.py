"""A study under [privacy] over real processes: charged before it trains, and only what is noised or public leaves."""

import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from client.privacy_ledger import PrivacyLedger
from client.site import SiteConfig
from server.run_folder import RunFolder
from shared.audit import verify
from shared.protocol import StudyProtocol
from shared.split import Split
from simulations.compartments import OneUser
from simulations.local_federation import LocalFederation
from simulations.namespaces import Namespaces, obstacle

pytestmark = pytest.mark.skipif(
    shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
    reason="nginx is not installed (on Debian: apt-get install nginx-light)",
)

EPSILON, ROUNDING = 6.0, 10
QUICK = {
    "OMP_NUM_THREADS": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
    "PYTHONPATH": str(Path(__file__).with_name("quick")),
}
DEADLINES = {"deadlines": {"ready_minutes": 5.0, "round_minutes": 5.0, "deliver_minutes": 3.0}}


@dataclass
class Story:
    """What a private federation of one hospital left behind."""

    protocol: StudyProtocol
    run: RunFolder
    config: SiteConfig

    @property
    def ledger(self) -> PrivacyLedger:
        return PrivacyLedger(folder=self.config.link.state, limit=self.config.policy.limit)


@pytest.fixture(scope="module")
def protocol(tiny: Any) -> StudyProtocol:
    """Give a private study of one round, at one hospital."""
    once = {"rounds": 1, "min_sites": 1}
    study: StudyProtocol = tiny.private_protocol(federation=once, epsilon=EPSILON, size_rounding=ROUNDING)
    return study


@pytest.fixture(scope="module")
def story(protocol: StudyProtocol, hospitals_on_disk: Path) -> Iterator[Story]:
    """Run it, in compartments where they can be made; the hospital allows a little more than the study asks for."""
    folder = Path(tempfile.mkdtemp(prefix="private"))
    folder.chmod(0o755)
    hospital = shutil.copytree(hospitals_on_disk / "north", folder / "hospitals" / "north")
    declared = tomllib.loads((hospital / "site.toml").read_text(encoding="utf-8"))
    declared["policy"] = {"max_epsilon": EPSILON + 2, "min_cell": 1}
    (hospital / "site.toml").write_text(tomli_w.dumps(declared), encoding="utf-8")
    with LocalFederation(
        folder / "all",
        protocol,
        folder / "hospitals",
        compartments=OneUser() if obstacle() else Namespaces(),
        variables=QUICK,
        settings=DEADLINES,
        say=lambda _: None,
    ) as federation:
        run = federation.run(lambda _: None)
        config = federation.sites["north"].config
    yield Story(protocol, run, config)
    shutil.rmtree(folder, ignore_errors=True)


def test_the_ledger_shows_what_was_charged(story: Story) -> None:
    """One round of one, below the study's epsilon; the plan is that of the approved study, by the rounded size."""
    (account,) = story.ledger.statement().accounts
    assert account.study == story.protocol.digest()
    assert account.charged[Split.TRAIN] == 1
    assert account.plan.expected_patients % ROUNDING == 0
    assert 0 < account.epsilon == account.planned_epsilon <= EPSILON
    assert 0 < story.ledger.statement().spent_share <= 1


def test_the_charge_stands_in_the_audit_log_before_what_left(story: Story) -> None:
    """Paid first, then trained, then released: in this order, in one chain."""
    lines = list(verify(story.config.link.state / "audit.jsonl"))
    events = [line["kind"] if line["event"] == "departure" else line["event"] for line in lines]
    assert events.index("privacy charge") < events.index("train")
    assert (events.count("privacy charge"), events.count("train")) == (1, 1)


def test_the_coordinator_learns_the_rounded_size_and_no_loss(story: Story) -> None:
    """Of the training patients: a multiple of ten, which admission takes in; no exam, no exclusion, no loss leaves."""
    ready = json.loads((story.run.path / "ready.json").read_text())
    (record,) = [json.loads(line) for line in (story.run.path / "rounds.jsonl").read_text().splitlines()]
    assert ready["refused"] == {}
    flow = ready["flows"]["north"]
    size, exams = flow.pop("split/train")
    assert (size % ROUNDING, size > 0, exams) == (0, True, -1)
    assert {count for counts in flow.values() for count in (counts if isinstance(counts, list) else [counts])} == {-1}
    assert record["sites"]["north"]["refusal"] is None
    assert record["sites"]["north"]["loss_by_epoch"] == []


def test_the_results_state_the_budget(story: Story) -> None:
    """Epsilon within what the study allows, and no stamp of a simulation's seeded noise."""
    spent = json.loads(story.run.results.read_text())["privacy"]["north"]
    assert 0 < spent["epsilon"] <= spent["budget"] == EPSILON
    assert not spent["seeded"]
