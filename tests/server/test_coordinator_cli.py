"""The coordinator's commands, as far as they need no other program: folder, invitation, backup, restore, status."""

import json
import os
import tarfile
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from typer.testing import CliRunner

from server.bundle import build_bundle, bundle_digest
from server.coordinator import RunOrder, begin_run, write_order
from server.coordinator_cli import app
from server.coordinator_config import read_coordinator
from server.coordinator_folder import CoordinatorFolder
from server.enrolment import Register, SiteRecord
from server.run_folder import RunFolder, open_run
from shared.errors import CoordinatorError, FederationError, PolyclinicError, StorageError
from shared.invitation import PublicKeys, read_invitation
from shared.messages import WIRE_VERSION
from shared.protocol import read_protocol
from simulations.local_federation import free_port


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Give `run(word, ...)`: a command over a coordinator's folder; what it prints, or the error that it raises."""

    def command(*words: Any, folder: str = "coordinator") -> str:
        result = CliRunner().invoke(app, [*map(str, words), "--folder", str(tmp_path / folder)])
        if isinstance(result.exception, PolyclinicError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return command


@pytest.fixture
def place(run: Any, tmp_path: Path) -> CoordinatorFolder:
    run("init", "--host", "coordinator.example", "--site", "north", "--site", "south", "--superlink-port", free_port())
    return CoordinatorFolder(path=tmp_path / "coordinator")


def test_init_makes_keys_for_one_user_and_a_certificate_for_the_host(place: CoordinatorFolder) -> None:
    """Nobody else reads a key; the server's certificate names the host, and the authority signed it."""
    assert place.private.stat().st_mode & 0o077 == 0
    assert all(path.stat().st_mode & 0o077 == 0 for path in place.private.iterdir())
    server = x509.load_pem_x509_certificate(place.server_certificate.read_bytes())
    server.verify_directly_issued_by(x509.load_pem_x509_certificate(place.ca.read_bytes()))
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["coordinator.example", "localhost"]
    assert server.not_valid_before_utc <= datetime.now(UTC) < server.not_valid_after_utc


def test_others_of_the_machine_read_nothing_but_what_is_sent(
    run: Any, place: CoordinatorFolder, tiny: Any, tmp_path: Path
) -> None:
    """Runs, records and settings are for the coordinator's user and group; an invitation is for everybody."""
    study = tmp_path / "study.toml"
    study.write_text(tiny.protocol().to_toml())
    os.umask(0o022)
    run("invite", "north", "--study", study, "--out", tmp_path / "sent" / "north")
    assert {path.stat().st_mode & 0o044 for path in (tmp_path / "sent").rglob("*")} == {0o044}
    assert place.path.stat().st_mode & 0o027 == 0
    assert place.config.stat().st_mode & 0o077 == 0o040
    os.umask(0o022)
    run("status")
    begun = begin_run_without_sites(place, tiny.protocol())
    assert {path.stat().st_mode & 0o007 for path in (begun.path, begun.protocol, begun.order)} == {0}


def begin_run_without_sites(place: CoordinatorFolder, protocol: Any) -> RunFolder:
    """Make a run's first files as `run` does, which needs enrolled sites before."""
    made = open_run(place.runs / "tiny", protocol, resume=False)
    write_order(made, RunOrder(run_id="a", flower_run=0))
    return made


def test_the_world_is_let_in_where_somebody_asks_for_it(run: Any, tmp_path: Path) -> None:
    """Without --listen the port is this machine's alone, in the file and where the file says nothing; init says so."""
    said = run("init", "--host", "coordinator.example", "--site", "north")
    assert "on this machine alone" in said
    place = CoordinatorFolder(path=tmp_path / "coordinator")
    assert read_coordinator(place.config).address.listen == "127.0.0.1"
    place.config.write_text('[address]\nhost = "coordinator.example"\n[sites]\nnames = ["north"]\n')
    assert read_coordinator(place.config).address.listen == "127.0.0.1"
    asked = run("init", "--host", "coordinator.example", "--site", "north", "--listen", "0.0.0.0", folder="open")
    assert "on this machine alone" not in asked
    assert read_coordinator(tmp_path / "open" / "coordinator.toml").address.listen == "0.0.0.0"


def test_init_does_not_take_the_place_of_a_coordinator(run: Any, place: CoordinatorFolder) -> None:
    """A second init over the same folder is refused, and changes no key."""
    before = place.ca_key.read_bytes()
    with pytest.raises(CoordinatorError, match="holds a coordinator already"):
        run("init", "--host", "other", "--site", "north")
    assert place.ca_key.read_bytes() == before


def test_a_new_server_certificate_has_the_same_authority(run: Any, place: CoordinatorFolder) -> None:
    """Sites trust the authority: they need nothing when the server's key is renewed."""
    ca, old = place.ca.read_bytes(), place.server_certificate.read_bytes()
    assert "valid until" in run("certificate")
    assert place.ca.read_bytes() == ca
    assert place.server_certificate.read_bytes() != old
    new = x509.load_pem_x509_certificate(place.server_certificate.read_bytes())
    new.verify_directly_issued_by(x509.load_pem_x509_certificate(ca))


def test_an_invitation_holds_what_a_site_needs_and_no_secret(
    run: Any, place: CoordinatorFolder, tiny_study: Path, tmp_path: Path
) -> None:
    """Its digests are those of the study, the bundle and the certificate; no byte of a key is in it."""
    run("invite", "north", "--study", tiny_study, "--out", tmp_path / "for north")
    found = read_invitation(tmp_path / "for north")
    assert (
        found.digest == read_protocol(tiny_study).digest() == read_protocol(tmp_path / "for north/study.toml").digest()
    )
    assert found.bundle == bundle_digest((tmp_path / "for north/polyclinic.fab").read_bytes())
    assert (found.site, found.address) == ("north", "coordinator.example:443")
    sent = b"".join(path.read_bytes() for path in (tmp_path / "for north").iterdir())
    assert not any(key.read_bytes() in sent or b"PRIVATE" in sent for key in place.private.iterdir())


def test_only_named_sites_are_invited(run: Any, place: CoordinatorFolder, tiny_study: Path, tmp_path: Path) -> None:
    """A site must stand in coordinator.toml first."""
    with pytest.raises(CoordinatorError, match=r"east: not in \[sites\] names"):
        run("invite", "east", "--study", tiny_study, "--out", tmp_path / "x")


def test_no_run_begins_with_a_site_that_is_not_enrolled(run: Any, place: CoordinatorFolder, tiny_study: Path) -> None:
    """It says who is missing, and makes no folder."""
    with pytest.raises(CoordinatorError, match="not enrolled: north, south"):
        run("run", tiny_study)
    assert not place.runs.exists()


def test_a_study_that_is_finished_is_not_run_again(
    run: Any, place: CoordinatorFolder, tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its report is named, and nothing of the run is touched; one that failed is run."""
    monkeypatch.setattr(Register, "of", lambda *_: {})
    found = begin_run(place, read_protocol(tiny_study))
    found.outcome.write_text(json.dumps({"failed": "", "exit_code": 0}))
    found.report.write_text("")
    with pytest.raises(StorageError, match=r"this study is finished: .*report\.html"):
        run("run", tiny_study)
    found.outcome.write_text(json.dumps({"failed": "the disk is full", "exit_code": 15}))
    with pytest.raises(FederationError):  # nothing is served here
        run("run", tiny_study)


def test_status_names_who_is_not_enrolled_and_the_other_runs(run: Any, place: CoordinatorFolder) -> None:
    """Whoever is missing is in the list of those in coordinator.toml, and a run that is not shown is named."""
    for name in ("one", "two"):
        (place.runs / name).mkdir(parents=True)
        (place.runs / name / "run.json").write_text("{}")
    said = run("status", "--run", "one")
    assert "north: not enrolled" in said
    assert "south: not enrolled" in said
    assert "Other runs here, shown with --run: two" in said


def test_a_revoked_site_is_told_to_make_new_keys(place: CoordinatorFolder) -> None:
    """Its old ones are never taken in again, so that sending them once more is no advice."""
    place.sites.mkdir(exist_ok=True)
    register = Register(place.sites)
    keys = PublicKeys.model_construct(site="north", node="ecdsa x", signing="00")
    register.records = lambda: {"north": SiteRecord.model_construct(keys=keys, node_id=1, revoked=True)}  # type: ignore[method-assign]
    with pytest.raises(CoordinatorError, match=r"not enrolled: north.* north: revoked, .*--rotate"):
        register.of(["north"])


def test_status_works_while_nothing_is_served(run: Any, place: CoordinatorFolder) -> None:
    """It says that the SuperLink does not answer, and until when the certificate is valid."""
    said = run("status")
    assert "does not answer" in said
    assert "certificate valid until" in said


def test_a_backup_is_for_its_owner_and_restores_into_an_empty_folder_only(
    run: Any, place: CoordinatorFolder, tmp_path: Path
) -> None:
    """Keys and settings come back as they were, with their modes; Flower's state and logs are not in it."""
    (place.runs / "study").mkdir(parents=True)
    (place.runs / "study" / "rounds.jsonl").write_text("{}\n")
    place.logs.mkdir()
    (place.logs / "superlink.log").write_text("much")
    file = tmp_path / "backup.tar.gz"
    run("backup", file)
    assert file.stat().st_mode & 0o077 == 0
    run("restore", file, folder="again")
    again = CoordinatorFolder(path=tmp_path / "again")
    assert again.ca_key.read_bytes() == place.ca_key.read_bytes()
    assert again.private.stat().st_mode & 0o077 == 0
    assert (again.runs / "study" / "rounds.jsonl").read_text() == "{}\n"
    assert not again.logs.exists()
    with pytest.raises(CoordinatorError, match="not empty"):
        run("restore", file, folder="again")


def test_a_backup_is_made_while_a_run_goes_on(
    run: Any, place: CoordinatorFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the run writes or removes just then is no part of it, and no reason to fail."""
    study = place.runs / "study"
    study.mkdir(parents=True)
    for name in ("a.json", "b.json.part", "c.safetensors"):
        (study / name).write_text("{}")
    look = tarfile.TarFile.gettarinfo

    def go_on(archive: tarfile.TarFile, name: Any = None, arcname: Any = None, fileobj: Any = None) -> tarfile.TarInfo:
        if str(arcname).endswith("study"):  # by now what is in it is listed
            for file in ("b.json.part", "c.safetensors"):
                (study / file).unlink()
        return look(archive, name, arcname, fileobj)

    monkeypatch.setattr(tarfile.TarFile, "gettarinfo", go_on)
    run("backup", tmp_path / "backup.tar.gz")
    run("restore", tmp_path / "backup.tar.gz", folder="again")
    assert [path.name for path in (tmp_path / "again" / "runs" / "study").iterdir()] == ["a.json"]


def test_what_is_no_backup_is_refused(run: Any, tmp_path: Path) -> None:
    """Noise, an archive of something else, and one that leads out of its folder."""
    (tmp_path / "noise").write_bytes(b"no archive")
    (tmp_path / "secret").write_text("mine")
    with tarfile.open(tmp_path / "other", "w:gz") as archive:
        archive.add(tmp_path / "secret", arcname="secret")
    with tarfile.open(tmp_path / "escape", "w:gz") as archive:
        archive.add(tmp_path / "secret", arcname="../escaped")
    for name in ("noise", "other", "escape"):
        with pytest.raises(CoordinatorError, match="not a backup"):
            run("restore", tmp_path / name, folder=f"from {name}")
    assert not (tmp_path / "escaped").exists()
    with pytest.raises(CoordinatorError, match="there is no such file"):
        run("restore", tmp_path / "none", folder="new")
    assert not (tmp_path / "new").exists()


def test_a_run_that_there_is_not_is_named(run: Any, place: CoordinatorFolder) -> None:
    """Commands over runs say which there are."""
    for word in ("stop", "resume"):
        with pytest.raises(CoordinatorError, match=r"runs holds no run. `run STUDY` begins one"):
            run(word, "--run", "nothing")


def test_a_port_that_there_is_not_is_a_wrong_command_line(place: CoordinatorFolder) -> None:
    """65536 is no port, and no bug of ours to print a traceback of."""
    result = CliRunner().invoke(app, ["monitor", "--port", "65536", "--folder", str(place.path)])
    assert result.exit_code == 2
    assert "0<=x<=65535" in result.output


def test_the_bundle_is_the_same_bytes_everywhere_and_has_the_encodings_version() -> None:
    """No code is in it; its version changes with the encoding and with nothing else."""
    assert build_bundle() == build_bundle()
    source = Path(__file__).parents[2] / "deploy" / "flower"
    manifest = tomllib.loads((source / "pyproject.toml").read_text())
    assert manifest["project"]["version"].split(".")[0] == WIRE_VERSION
    assert sorted(path.suffix for path in source.iterdir()) == [".md", ".toml"]
    assert b".py\n" not in build_bundle()
