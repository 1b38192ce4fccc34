"""Studies that start from a file of weights, deployed by their invitations alone; and two of them at the same sites."""

import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from client.approval import Approvals
from client.approving import approve_study, look_at
from client.bootstrap import unseen
from server import coordinator
from server.fleet import fleet
from server.playing import Player
from server.run_folder import RunFolder
from server.run_status import read_status
from shared.errors import CoordinatorError, SiteError, WeightsError
from shared.invitation import WEIGHTS
from shared.model import build, model_spec
from shared.protocol import StudyProtocol
from simulations.compartments import OneUser
from simulations.local_federation import LocalFederation

pytestmark = [
    pytest.mark.skipif(
        shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") is None,
        reason="nginx is not installed (on Debian: apt-get install nginx-light)",
    ),
    pytest.mark.skipif(sys.platform != "linux", reason="a deployed site runs on Linux"),
]

QUICK = {
    "OMP_NUM_THREADS": "1",
    "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.25",
    "PYTHONPATH": str(Path(__file__).with_name("quick")),
}
DEADLINES = {"deadlines": {"ready_minutes": 5.0, "round_minutes": 8.0, "deliver_minutes": 3.0}}
RESNET50 = "resnet50_v1_keras_imagenet_fp16.safetensors"


@pytest.fixture(scope="module")
def small_weights(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file of a ResNet-18's arrays, of another seed than the study's."""
    network, _ = build(model_spec(tiny.protocol(study={"seed": 77})), weights_file=None)
    path = tmp_path_factory.mktemp("weights") / "backbone.pt"
    torch.save({name: array for name, array in network.state_dict().items() if not name.startswith("fc.")}, path)
    return path


def run(federation: LocalFederation, protocol: StudyProtocol, said: list[str]) -> RunFolder:
    found = coordinator.begin_run(federation.place, protocol)
    with fleet(federation.place) as superlink:
        Player(federation.place, found, superlink, say=said.append).play()
    return found


def approve_too(federation: LocalFederation, protocol: StudyProtocol, folder: Path) -> None:
    """Do at every site what the runbook says of a second study, from its invitation alone; then restart it."""
    for name, hospital in federation.sites.items():
        coordinator.invite(federation.place, name, protocol, folder / name)
        offer = look_at(hospital.config, folder / name, weights_file=None, progress=unseen)
        approve_study(hospital.config, offer, approved_by="Dr. Data")
        shutil.rmtree(folder / name)  # from now on the agent has only what the approval has kept
        federation.stop_site(name)
        federation.start_site(name)


def backbone_of(model: Path, name: str) -> torch.Tensor:
    return load_file(model)[name]


@pytest.mark.parametrize("which", ["small", pytest.param("resnet50_v1", marks=pytest.mark.nightly)])
def test_two_studies_with_weights_run_at_the_same_sites(
    which: str, request: pytest.FixtureRequest, tiny: Any, hospitals_on_disk: Path, tmp_path: Path
) -> None:
    """The file is named once, to the coordinator; both studies end, and a third that nobody approved does not begin."""
    if which == "small":
        weights, model = request.getfixturevalue("small_weights"), {"weights": "file"}
    else:
        weights = request.getfixturevalue("shared_data") / "weights" / RESNET50
        model = {"weights": "file", "backbone": "resnet50_v1", "features": "unit"}
    once: dict[str, Any] = {"federation": {"rounds": 1}}
    first = tiny.protocol(model=model, **once)
    pinned = model | {"weights": f"sha256:{hashlib.sha256(weights.read_bytes()).hexdigest()}"}
    second = tiny.protocol(model=pinned, study={"name": "Second"}, **once)
    third = tiny.protocol(study={"name": "Third"}, **once)
    hospitals = shutil.copytree(hospitals_on_disk, tmp_path / "hospitals")
    said: list[str] = []
    nowhere = {"TORCH_HOME": str(tmp_path / "nowhere"), "https_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "x://y"}
    with LocalFederation(
        tmp_path / "all",
        first,
        hospitals,
        compartments=OneUser(),
        variables=QUICK | nowhere,
        settings=DEADLINES,
        say=said.append,
        weights=weights,
    ) as federation:
        shutil.rmtree(next(iter(federation.sites.values())).home.parent / "invitation")
        done = run(federation, first, said)
        with pytest.raises(WeightsError, match="no file was given"):  # pinned, and named to nobody yet
            coordinator.begin_run(federation.place, second)
        coordinator.invite(federation.place, "north", second, tmp_path / "first", weights=weights)
        approve_too(federation, second, tmp_path / "papers")
        also = run(federation, second, said)
        with pytest.raises(Exception, match=r"unknown_protocol.*site approve"):
            run(federation, third, said)
        refused = read_status(federation.place.runs / coordinator.run_name(third) / "status.json")
    assert refused is not None
    assert refused.stage == "failed"
    assert done.report.exists(), "\n".join(said)
    assert also.report.exists(), "\n".join(said)
    state = torch.load(weights, weights_only=True) if which == "small" else load_file(weights)
    for finished in (done, also):
        torch.testing.assert_close(
            backbone_of(finished.model, "layer1.0.conv1.weight"), state["layer1.0.conv1.weight"].float()
        )
    for hospital in federation.sites.values():
        assert len(Approvals(hospital.config.link.state / "studies").all()) == 2
        assert len(list((hospital.config.link.state / "weights").iterdir())) == 1


@pytest.fixture
def place(tmp_path: Path) -> Any:
    """Give a coordinator's folder with one site."""
    from datetime import UTC, datetime

    from server.coordinator_folder import CoordinatorFolder

    folder = CoordinatorFolder(path=tmp_path / "coordinator")
    settings = {"address": {"host": "localhost"}, "sites": {"names": ["north", "south"]}}
    coordinator.make_folder(folder, settings, now=datetime.now(UTC))
    return folder


def test_an_invitation_brings_the_file_and_the_site_checks_it(
    place: Any, tiny: Any, small_weights: Path, hospitals_on_disk: Path, tmp_path: Path
) -> None:
    """What was changed on the way is refused with both digests; what is missing, with where to put it."""
    from client.site import read_site
    from client.site_keys import SiteKeys

    protocol = tiny.protocol(model={"weights": "file"})
    north = shutil.copytree(hospitals_on_disk / "north", tmp_path / "north")
    config = read_site(north / "site.toml")
    SiteKeys(config.link.keys).create()
    sent = tmp_path / "sent"
    invitation = coordinator.invite(place, "north", protocol, sent, weights=small_weights)
    assert hashlib.sha256((sent / WEIGHTS).read_bytes()).hexdigest() == invitation.weights
    assert look_at(config, sent, weights_file=None, progress=unseen).weights == invitation.weights
    (sent / WEIGHTS).write_bytes(b"other weights")
    with pytest.raises(WeightsError, match=invitation.weights):
        look_at(config, sent, weights_file=None, progress=unseen)
    assert look_at(config, sent, weights_file=small_weights, progress=unseen).file == small_weights
    (sent / WEIGHTS).unlink()
    with pytest.raises(WeightsError, match=f"put it there as {WEIGHTS}"):
        look_at(config, sent, weights_file=None, progress=unseen)


def test_all_sites_are_invited_to_the_same_weights(place: Any, tiny: Any, small_weights: Path, tmp_path: Path) -> None:
    """The second invitation needs no file; another one than the first is refused; a wrong one first leaves no trace."""
    protocol = tiny.protocol(model={"weights": "file"})
    wrong = tmp_path / "wrong.pt"
    torch.save({"a": torch.zeros(1)}, wrong)
    with pytest.raises(WeightsError, match="does not fit"):
        coordinator.invite(place, "north", protocol, tmp_path / "n", weights=wrong)
    one = coordinator.invite(place, "north", protocol, tmp_path / "n", weights=small_weights)
    assert coordinator.invite(place, "south", protocol, tmp_path / "s").initial == one.initial
    with pytest.raises(CoordinatorError, match="other weights"):
        coordinator.invite(place, "south", protocol, tmp_path / "s", weights=wrong)
    with pytest.raises(WeightsError, match="weights = 'none'"):
        coordinator.invite(place, "south", tiny.protocol(), tmp_path / "t", weights=small_weights)


def test_an_approval_whose_file_is_gone_says_what_to_do(
    place: Any, tiny: Any, small_weights: Path, hospitals_on_disk: Path, tmp_path: Path
) -> None:
    """As after an upgrade from a version that kept none: the study alone is not answered for."""
    from client.pretrained import kept_weights, pretrained_of
    from client.site import read_site
    from client.site_keys import SiteKeys

    protocol = tiny.protocol(model={"weights": "file"})
    north = shutil.copytree(hospitals_on_disk / "north", tmp_path / "north")
    config = read_site(north / "site.toml")
    SiteKeys(config.link.keys).create()
    coordinator.invite(place, "north", protocol, tmp_path / "n", weights=small_weights)
    offer = look_at(config, tmp_path / "n", weights_file=None, progress=unseen)
    study = approve_study(config, offer, approved_by="Dr. Data")
    assert pretrained_of(config, study) == kept_weights(config).find(offer.weights)
    kept_weights(config).forget(offer.weights)
    with pytest.raises(WeightsError, match="approve"):
        pretrained_of(config, study)


def test_links_of_two_coordinators_need_a_name(tmp_path: Path) -> None:
    """Studies of one coordinator need none; of two, the link says which there are, and how to start both."""
    from client.site_keys import SiteKeys
    from client.superexec import link_command

    keys = SiteKeys(tmp_path / "keys")
    keys.create()
    for name, address in (("aaaa", "one.example:443"), ("bbbb", "one.example:443"), ("cccc", "two.example:443")):
        folder = keys.node.parent / name
        folder.mkdir()
        (folder / "address").write_text(address + "\n", encoding="ascii")
        if name == "bbbb":
            assert "one.example:443" in link_command(keys, runtime="127.0.0.1:9094", study=None)
    with pytest.raises(SiteError, match=r"several coordinators \(aaaa at one.*cccc at two.*--study"):
        link_command(keys, runtime="127.0.0.1:9094", study=None)
    assert "two.example:443" in link_command(keys, runtime="127.0.0.1:9094", study="cc")
