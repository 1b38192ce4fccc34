"""The courier's bundle: installed as invited, not writable, and no other in its place."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_files
from typer.testing import CliRunner

from client.bundle import install_bundle, install_invited
from server.bundle import build_bundle
from shared.cli import application
from shared.errors import SiteError, StorageError
from shared.invitation import BUNDLE, INVITATION, Invitation, write_paper
from shared.manifest import holds_the_manifest_alone, manifest
from shared.tasks import WIRE_VERSION


def invite(folder: Path, promised: bytes, sent: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / BUNDLE).write_bytes(sent)
    digest = "0" * 64
    paper = Invitation(
        site="north",
        coordinator="C",
        address="localhost:443",
        study="Tiny",
        digest=digest,
        initial=digest,
        weights="",
        bundle=hashlib.sha256(promised).hexdigest(),
        ca=digest,
        encoding=WIRE_VERSION,
        signing=digest,
    )
    write_paper(paper, folder / INVITATION)
    return folder


def test_the_invited_bundle_is_installed_and_cannot_be_written(tmp_path: Path) -> None:
    """It lies in the courier's folder without a right to write anywhere in it; a second time changes nothing."""
    bundle = build_bundle()
    invitation, home = invite(tmp_path / "invitation", bundle, bundle), tmp_path / "home"
    place = install_invited(invitation, home, site="north")
    assert place.parent == home / "apps"
    assert {path.stat().st_mode & 0o222 for path in [home / "apps", *(home / "apps").rglob("*")]} == {0}
    assert install_invited(invitation, home, site="north") == place


def test_another_bundle_is_refused_and_nothing_is_installed(tmp_path: Path) -> None:
    """A bundle with another digest than the invitation's stays out, as does one that is missing."""
    invitation = invite(tmp_path / "invitation", build_bundle(), build_bundle() + b"x")
    with pytest.raises(SiteError, match="not the bundle"):
        install_invited(invitation, tmp_path / "home", site="north")
    (invitation / BUNDLE).unlink()
    with pytest.raises(StorageError, match=BUNDLE):
        install_invited(invitation, tmp_path / "home", site="north")
    assert not (tmp_path / "home").exists()


def declared(before: str, after: str) -> bytes:
    """Build a bundle whose declaration says something else."""
    text = manifest()["pyproject.toml"].decode()
    assert text.count(before) == 1
    return build_fab_from_files(manifest() | {"pyproject.toml": text.replace(before, after).encode()})[0]


def with_code() -> bytes:
    text = manifest()["pyproject.toml"].decode().replace('["README.md"]', '["README.md", "**/*.py"]')
    return build_fab_from_files(manifest() | {"pyproject.toml": text.encode(), "evil/app.py": b"app = 1"})[0]


def rewritten(change: Callable[[zipfile.ZipFile], None], *, without: str = "") -> bytes:
    """Copy the bundle's files but one into an archive of our own, and change that."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(build_bundle())) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name != without:
                new.writestr(name, old.read(name))
        change(new)
    return made.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    "make",
    [
        with_code,
        lambda: declared("client.courier:app", "evil.app:app"),
        lambda: declared("server.app:app", "evil.app:app"),
        lambda: declared('version = "3.0.0"', 'version = "1/../../../../escaped/x"'),
        lambda: declared("polyclinic-wire", "another"),
        lambda: declared('publisher = "polyclinic"', 'publisher = "another"'),
        lambda: declared("dependencies = []", 'dependencies = ["evil"]'),
        lambda: rewritten(lambda new: new.writestr("sitecustomize.py", "raise SystemExit")),
        lambda: rewritten(lambda new: new.writestr("../escaped.txt", "x")),
        lambda: rewritten(lambda new: new.writestr("README.md", "a second one")),
        lambda: rewritten(lambda new: new.writestr("README.md", bytes(2**24)), without="README.md"),
        lambda: rewritten(lambda new: new.writestr("README.md", "other words"), without="README.md"),
        lambda: rewritten(lambda new: new.writestr("pyproject.toml", b"\xff"), without="pyproject.toml"),
        lambda: rewritten(lambda new: new.comment, without="README.md"),
        lambda: b"no archive",
        lambda: build_bundle()[:-30],
    ],
)
def test_a_bundle_that_is_more_than_the_manifest_is_not_installed(make: Callable[[], bytes], tmp_path: Path) -> None:
    """Whoever invited: its code would run in the courier, and what it calls itself would be a place anywhere."""
    bundle = make()
    invitation = invite(tmp_path / "deep" / "invitation", bundle, bundle)
    with pytest.raises(SiteError, match="not Polyclinic's manifest without code"):
        install_invited(invitation, tmp_path / "deep" / "home", site="north")
    with pytest.raises(SiteError, match="not Polyclinic's manifest without code"):
        install_bundle(bundle, tmp_path / "deep" / "home")
    assert [path.name for path in tmp_path.rglob("*") if path.is_dir()] == ["deep", "invitation"]


def test_what_the_coordinator_builds_is_the_manifest() -> None:
    """Or no hospital could take part."""
    assert holds_the_manifest_alone(build_bundle())


def test_another_sites_invitation_installs_nothing(tmp_path: Path) -> None:
    """As `site approve` refuses it."""
    invitation = invite(tmp_path / "invitation", build_bundle(), build_bundle())
    with pytest.raises(SiteError, match="is for 'north', and this site is called 'south'"):
        install_invited(invitation, tmp_path / "home", site="south")
    assert not (tmp_path / "home").exists()


def test_the_command_takes_site_toml_first_and_says_so(tmp_path: Path) -> None:
    """As every other command of a site; the earlier order, and one that lacks something, is told the right one."""
    invitation, home = invite(tmp_path / "invitation", build_bundle(), build_bundle()), tmp_path / "home"
    site = tmp_path / "site.toml"
    site.write_text(
        '[site]\nname = "north"\n[data]\ndicom = "dicom"\nlabels = "labels.csv"\njoin = "path"\n'
        '[data.findings]\nopacity = "opacity"\n'
    )
    order = "polyclinic site bundle SITE.toml FOLDER --home HOME"
    for words in ((invitation, "--home", home), (invitation, site, "--home", home), (site, "--home", home), (site,)):
        refused = CliRunner().invoke(application(), ["site", "bundle", *map(str, words)])
        assert refused.exit_code == 2
        assert order in " ".join(refused.output.split())
        assert not home.exists()
    done = CliRunner().invoke(application(), ["site", "bundle", str(site), str(invitation), "--home", str(home)])
    assert done.exit_code == 0, done.output
    assert (home / "apps").is_dir()
