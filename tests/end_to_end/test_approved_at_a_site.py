"""A deployed agent, put together from an invitation and an approval as on a hospital's disk, without the network."""

import shutil
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from client.agent_service import Handler
from client.approving import approve_study, look_at
from client.bootstrap import unseen
from client.deployment import Deployment
from client.metrics import SiteMetrics
from client.privacy_ledger import ledger_of
from client.site import SiteConfig, read_site
from client.site_audit import DEPARTURES
from client.site_keys import SiteKeys
from client.site_status import status_lines
from server import coordinator
from server.bootstrap import compose
from server.coordinator_folder import CoordinatorFolder
from server.coordinator_key import coordinator_key
from shared.audit import AuditLog, now
from shared.errors import PrivacyError
from shared.messages import Header, Kind, RefusalReply, TrainReply, TrainTask, decode_answer, encode_task
from shared.protocol import StudyProtocol
from shared.refusal_codes import Refusal
from shared.signing import Purpose
from shared.wire import from_frames, to_frames

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True)
class Place:
    """A coordinator's folder and one hospital's, on one disk."""

    coordinator: CoordinatorFolder
    config: SiteConfig

    def approve(self, protocol: StudyProtocol, out: Path) -> Handler:
        """Invite the hospital, approve, and start its agent."""
        coordinator.invite(self.coordinator, "north", protocol, out)
        offer = look_at(self.config, out, weights_file=None, progress=unseen)
        study = approve_study(self.config, offer, approved_by="Dr. Data")
        return self.start(Deployment(config=self.config, study=study, progress=unseen))

    def start(self, deployment: Deployment) -> Handler:
        audit = AuditLog(self.config.link.state / DEPARTURES)
        metrics = SiteMetrics(site="north", version="0", studies=[])
        return deployment.handler(audit, metrics, turn=nullcontext(True))

    def train(self, handler: Handler, protocol: StudyProtocol, run_id: str) -> Any:
        """Ask for round 1 of a run, signed as the coordinator does."""
        header = Header(protocol_digest=protocol.digest(), run_id=run_id, round=1, site="north", kind=Kind.TRAIN)
        composed, _ = compose(protocol, weights_file=None)
        arrays = {name: composed.initial[name] for name in ("fc.weight", "fc.bias")}
        content = encode_task(TrainTask(header=header, arrays=arrays))
        coordinator_key(self.coordinator).sign(content, Purpose.TASK)
        return decode_answer(from_frames(list(handler(to_frames(content))))).reply


@pytest.fixture
def place(hospitals_on_disk: Path, tmp_path: Path) -> Place:
    folder = CoordinatorFolder(path=tmp_path / "coordinator")
    settings = {"address": {"host": "localhost"}, "sites": {"names": ["north"]}}
    coordinator.make_folder(folder, settings, now=datetime.now(UTC))
    north = shutil.copytree(hospitals_on_disk / "north", tmp_path / "north")
    config = read_site(north / "site.toml")
    SiteKeys(config.link.keys).create()
    return Place(folder, config)


@pytest.mark.parametrize("off", [timedelta(days=400), timedelta(hours=1), timedelta(hours=-1), timedelta(days=-400)])
def test_a_clock_that_was_off_at_an_approval_changes_no_limit(
    place: Place, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: timedelta
) -> None:
    """Two rounds were approved: two train, whatever the clock said and after a restart; a new approval allows two."""
    protocol = tiny.protocol()
    for approval in ("first", "second"):
        monkeypatch.setattr("client.approving.now", lambda: now() + off)
        handler = place.approve(protocol, tmp_path / approval)
        monkeypatch.setattr("client.approving.now", now)
        for number in (1, 2):
            assert isinstance(place.train(handler, protocol, f"{approval} {number}"), TrainReply)
        assert "rounds begun: 2 of 2" in "\n".join(status_lines(place.config))
        third = place.train(handler, protocol, f"{approval} 3")
        assert third == RefusalReply(code=Refusal.ROUNDS_USED_UP)


def test_a_started_agent_reserves_no_budget(place: Place, tiny: Any, tmp_path: Path) -> None:
    """A private study's account that was closed unspent is not opened by a start: an approval alone reserves."""
    protocol = tiny.private_protocol(epsilon=6.0, size_rounding=10)
    place.approve(protocol, tmp_path / "first")
    ledger = ledger_of(place.config)
    assert [account.study for account in ledger.statement().accounts] == [protocol.digest()]
    ledger.close(protocol.digest())
    from client.approval import Approvals

    (study,) = Approvals(place.config.link.state / "studies").all()
    with pytest.raises(PrivacyError, match="Approve the study anew"):
        place.start(Deployment(config=place.config, study=study, progress=unseen))
    assert ledger.statement().accounts == ()
    assert isinstance(place.train(place.approve(protocol, tmp_path / "anew"), protocol, "run"), TrainReply)


def test_a_link_is_told_of_a_new_authority_whatever_the_files_times(place: Place, tiny: Any, tmp_path: Path) -> None:
    """The last approval's authority is that of every study of the same coordinator."""
    from client.superexec import link_command

    keys = SiteKeys(place.config.link.keys)
    place.approve(tiny.protocol(), tmp_path / "one")
    place.coordinator.ca.write_bytes(place.coordinator.ca.read_bytes() + b"\n")
    place.approve(tiny.protocol(federation={"rounds": 3}), tmp_path / "two")
    told = sorted(keys.node.parent.glob("*/ca.crt"))
    assert len(told) == 2
    assert {path.read_bytes() for path in told} == {place.coordinator.ca.read_bytes()}
    assert link_command(keys, runtime="127.0.0.1:9094", study=None)[4] in map(str, told)
