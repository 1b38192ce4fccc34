"""What the ServerApp does with a coordinator's folder: runs the study, says how it ended, goes on where it was left."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tomli_w
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message

from client.agent import Agent
from server import coordinator
from server.coordinator_folder import CoordinatorFolder
from server.coordinator_key import coordinator_key
from server.deployed_run import _alone, run_study
from server.enrolment import SiteRecord
from server.playing import Player
from server.round_records import read_rounds
from server.run_folder import RunFolder
from server.run_status import read_status
from shared.errors import FederationError
from shared.invitation import PublicKeys
from shared.signing import SigningKey, content_digest
from shared.wire import from_frames, to_frames
from simulations.in_process_grid import InProcessGrid

KEYS = {"north": SigningKey.draw(), "south": SigningKey.draw()}
NODES = {"north": 1, "south": 2}


def deployed(agent: Agent, key: SigningKey, coordinator: str) -> Agent:
    """Let an agent sign with this key, and take tasks of this coordinator alone, as a deployed one does."""
    return replace(agent, coordinator=coordinator, guard=replace(agent.guard, key=key))


def node_key() -> str:
    """Give the public half of a link's key, as a site writes it."""
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(*form).decode()


class Deployment:
    """A coordinator's folder with two enrolled sites, and their agents in this process."""

    def __init__(self, tiny: Any, folder: Path, keys: dict[str, SigningKey] | None = None) -> None:
        self.place = CoordinatorFolder(path=folder / "coordinator")
        self.protocol = tiny.protocol()
        settings = {"address": {"host": "localhost"}, "sites": {"names": ["north", "south"]}}
        deadlines = {"ready_minutes": 0.001, "round_minutes": 0.001, "deliver_minutes": 0.001}
        coordinator.make_folder(self.place, settings | {"deadlines": deadlines}, now=datetime.now(UTC))
        self.place.sites.mkdir()
        for site, key in KEYS.items():
            papers = PublicKeys(site=site, node=node_key(), signing=key.public)
            record = SiteRecord(keys=papers, node_id=NODES[site])
            (self.place.sites / f"{site}.toml").write_text(tomli_w.dumps(record.model_dump()))
        self.run = coordinator.begin_run(self.place, self.protocol)
        agents = {site: tiny.agent(self.protocol, folder, name=site) for site in KEYS}
        public = coordinator_key(self.place).public
        agents = {site: deployed(agent, (keys or KEYS)[site], public) for site, agent in agents.items()}
        self.handlers = {NODES[site]: agent.handle for site, agent in agents.items()}

    def play(self, grid: InProcessGrid | None = None) -> RunFolder:
        run_study(self.place, self.run.path.name, grid or InProcessGrid(self.handlers))
        return self.run

    def outcome(self) -> dict[str, Any]:
        return json.loads(self.run.outcome.read_text())


@pytest.fixture
def deployment(tiny: Any, tmp_path: Path, one_thread: None) -> Callable[..., Deployment]:
    return lambda name="one", **own: Deployment(tiny, tmp_path / name, **own)


class DyingGrid(InProcessGrid):
    """Breaks off, as a SuperLink that goes away does, at the so manieth message that is pulled."""

    def __init__(self, handlers: Any, *, after: int) -> None:
        super().__init__(handlers)
        self.left = after

    def _answer(self, message: Message) -> Message:
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("gone")
        return super()._answer(message)


def test_a_run_leaves_results_report_model_and_its_outcome(deployment: Any) -> None:
    """Every site was heard with its version and approval; the status says finished, the outcome says well."""
    one = deployment()
    run = one.play()
    assert one.outcome() == {"failed": "", "exit_code": 0}
    assert all(path.exists() for path in (run.model, run.results, run.report, run.ready))
    status = read_status(run.status)
    assert (status.stage, status.round, status.rounds) == ("finished", 2, 2)
    assert {site.approval for site in status.sites.values()} == {"simulated"}
    assert {site.package for site in status.sites.values()} == {"0.1.0"}
    assert {site.refusal for site in status.sites.values()} == {"did not confirm the final model"}  # no place for one


@pytest.mark.parametrize("after", [3, 9])
def test_a_run_that_was_broken_off_goes_on_and_ends_with_the_same_bits(deployment: Any, after: int) -> None:
    """Broken off in round 1, in round 2 or at the end; the outcome says that no one is to blame, and it goes on."""
    whole, broken = deployment("whole"), deployment("broken")
    with pytest.raises(ConnectionError):
        broken.play(DyingGrid(broken.handlers, after=after))
    assert broken.outcome() == {"failed": "gone", "exit_code": None}
    run_id = coordinator.read_order(broken.run).run_id
    assert broken.play().model.read_bytes() == whole.play().model.read_bytes()
    assert coordinator.read_order(broken.run).run_id == run_id


def test_a_resumed_run_keeps_the_roster_that_it_began_with(deployment: Any) -> None:
    """What each site said before round 1 is written down, and a resumed run does not write it anew."""
    one = deployment()
    with pytest.raises(ConnectionError):
        one.play(DyingGrid(one.handlers, after=7))
    ready = one.run.ready.read_text()
    assert set(json.loads(ready)["flows"]) == {"north", "south"}
    one.play()
    assert one.run.ready.read_text() == ready


def test_replies_signed_with_another_key_do_not_take_part(deployment: Any) -> None:
    """Two sites whose answers were signed with each other's keys: nobody takes part, and the outcome says why."""
    swapped = deployment(keys={"north": KEYS["south"], "south": KEYS["north"]})
    with pytest.raises(FederationError, match="not_signed_by_the_site"):
        swapped.play()
    outcome = swapped.outcome()
    assert outcome["exit_code"] == 16
    assert "0 of 2 sites can take part" in outcome["failed"]
    assert read_status(swapped.run.status).stage == "failed"
    assert not swapped.run.ready.exists()


@pytest.mark.parametrize(
    ("gullible", "reason"), [(False, "not_signed_by_the_coordinator"), (True, "answers_another_request")]
)
def test_arrays_that_were_changed_on_the_way_enter_nowhere(
    deployment: Any, monkeypatch: pytest.MonkeyPatch, gullible: bool, reason: str
) -> None:
    """The site refuses them; and what a site that took them would sign names another request than the coordinator's."""
    one = deployment()
    honest = one.handlers[1]

    def tampering(frames: Iterable[bytes]) -> Iterator[bytes]:
        content = from_frames(frames)
        if content.config_records["task"]["kind"] == "train":
            (block,) = content.array_records["arrays"].values()
            block.data = block.data[:-4] + np.float32(9).tobytes()
        yield from honest(to_frames(content))

    if gullible:
        monkeypatch.setattr("client.opening.signed_digest", lambda content, *_: content_digest(content))
    one.handlers[1] = tampering
    with suppress(FederationError):  # no round has as many sites as the study needs
        one.play()
    records = read_rounds(one.run.path)
    assert [record["sites"]["north"]["refusal"] for record in records] == [reason] * 2
    assert all(record["lost"] for record in records)


def test_a_dropped_site_is_not_asked(deployment: Any) -> None:
    """South was dropped before the run went on: nothing of it is waited for, and min_sites decides."""
    one = deployment()
    one.run.dropped.write_text('["south"]')
    with pytest.raises(FederationError, match="1 of 2 sites"):
        one.play()
    assert read_status(one.run.status).sites["south"].state == "not asked"


def test_a_site_can_only_be_dropped_from_a_run_that_has_it(deployment: Any) -> None:
    """A misspelt name is refused, and names who is in the run."""
    one = deployment()
    one.play()
    with pytest.raises(coordinator.CoordinatorError, match=r"North: not in this run\. In it: north, south"):
        coordinator.drop_site(one.run, "North")
    coordinator.drop_site(one.run, "north")
    assert json.loads(one.run.dropped.read_text()) == ["north"]


def test_a_run_holds_a_lock_that_others_cannot_open(tmp_path: Path) -> None:
    """Neither the process of the rounds nor who follows it leaves it open to the machine's other users."""
    run = RunFolder(path=tmp_path)
    with _alone(run.lock):
        assert run.lock.stat().st_mode & 0o777 == 0o600
    run.lock.chmod(0o644)
    assert not Player(CoordinatorFolder(path=tmp_path), run, cast(Any, None), say=print)._held()
    assert run.lock.stat().st_mode & 0o777 == 0o600
