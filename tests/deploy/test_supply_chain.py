"""What is installed: exact versions, files by their hashes, and nothing that is fetched by the way."""

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FILES = ("constraints.txt", "constraints-cuda.txt")


def pins(root: Path, name: str = "constraints.txt") -> dict[str, tuple[str, set[str]]]:
    """Read the versions and the hashes that may be installed, by name."""
    text = re.sub(r"^#.*\n", "", (root / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    found = {}
    for line in text.replace("\\\n", " ").splitlines():
        pin, *hashes = line.split()
        package, version = pin.split("==")
        found[canonicalize_name(package)] = version, {one.removeprefix("--hash=sha256:") for one in hashes}
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_version_is_exact_and_every_file_has_a_hash(deploy: Path, name: str) -> None:
    """No line is without a hash, and each is one of SHA-256."""
    for package, (version, hashes) in pins(deploy.parent, name).items():
        assert version, package
        assert hashes, package
        assert all(re.fullmatch(r"[0-9a-f]{64}", one) for one in hashes), package


def test_what_is_installed_here_is_pinned(deploy: Path) -> None:
    """Whatever this environment needs, at any depth, stands there in its version: nothing is left to the index."""
    known = pins(deploy.parent) | pins(deploy.parent, "constraints-cuda.txt")
    here = {canonicalize_name(one.metadata["Name"]): one for one in distributions()}
    todo, seen = [Requirement("polyclinic[simulate,dev]")], set()
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        for line in here[name].requires or ():
            needed = Requirement(line)
            named = [{"extra": extra} for extra in wanted.extras] or [{"extra": ""}]
            if any(needed.marker is None or needed.marker.evaluate(one) for one in named):
                key = (canonicalize_name(needed.name), frozenset(needed.extras))
                if key not in seen:
                    seen.add(key)
                    todo.append(needed)
    unpinned = sorted(name for name, _ in seen if name not in known and name != "polyclinic")
    assert unpinned == []
    assert len(seen) > 100


def test_what_builds_the_project_is_pinned_too(deploy: Path) -> None:
    """Its build asks for setuptools alone, takes the pinned one, and fetches nothing."""
    system = tomllib.loads((deploy.parent / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    for line in system["requires"]:
        needed = Requirement(line)
        assert needed.specifier.contains(pins(deploy.parent)[canonicalize_name(needed.name)][0])
    make = (deploy.parent / "Makefile").read_text(encoding="utf-8")
    assert "LOCKED := install --require-hashes --no-deps --only-binary :all:" in make
    for line in re.findall(r"\$\(PIP\) (.+)", make):
        if line.startswith("install"):
            assert {"--no-index", "--no-deps", "--no-build-isolation"} <= set(line.split()), line
        else:
            assert line.startswith(("$(LOCKED)", "check")), line


def test_a_file_that_was_changed_is_not_installed(deploy: Path, tmp_path: Path) -> None:
    """The very words of the Makefile, over a wheel here: as it was it is taken, with one byte more refused."""
    wheel = tmp_path / "files" / "honest-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("honest.py", "x = 1\n")
        archive.writestr("honest-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: honest\nVersion: 1.0\n")
        archive.writestr("honest-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("honest-1.0.dist-info/RECORD", "honest.py,,\n")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (tmp_path / "constraints.txt").write_text(f"honest==1.0 \\\n    --hash=sha256:{digest}\n")
    words = re.search(r"^LOCKED := (.+)$", (deploy.parent / "Makefile").read_text(), flags=re.MULTILINE)[1].split()
    command = [sys.executable, "-m", "pip", *words, "--no-index", "--find-links", wheel.parent, "--target"]

    def install(target: str) -> subprocess.CompletedProcess[str]:
        ask = [*command, tmp_path / target, "-r", tmp_path / "constraints.txt"]
        return subprocess.run(ask, capture_output=True, text=True, timeout=120)

    honest = install("honest")
    assert honest.returncode == 0, honest.stderr
    with wheel.open("ab") as file:
        file.write(b"\0")
    changed = install("changed")
    assert changed.returncode != 0
    assert "DO NOT MATCH THE HASHES" in changed.stderr


def test_the_images_of_others_are_named_in_one_place(deploy: Path) -> None:
    """Dockerfiles and compose files take them from there; a digest is one, or is not there yet, and never half."""
    lines = (deploy / "base_images.env").read_text(encoding="utf-8").splitlines()
    named = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert named.keys() == {"PYTHON_IMAGE", "PROMETHEUS_IMAGE", "GRAFANA_IMAGE"}
    for image in named.values():
        assert re.fullmatch(r"[\w./-]+:[\w.-]+(@sha256:[0-9a-f]{64})?", image), image
    for side in ("client", "server"):
        compose = (deploy / side / "compose.yaml").read_text(encoding="utf-8")
        others = re.findall(r"image: (?!polyclinic-)(\S+)", compose)
        assert all(one.startswith("${") and one[2:].split(":")[0] in named for one in others), others


@pytest.mark.skipif(shutil.which("sh") is None, reason="runs a shell script")
def test_digests_are_written_behind_the_tags_once(deploy: Path, tmp_path: Path) -> None:
    """By what the registry says; a second run asks for nothing, and where it says nothing the file stays as it was."""
    for name in ("base_images.env", "pin_base_images.sh"):
        shutil.copy(deploy / name, tmp_path / name)
    before = re.sub(r"@sha256:\w+", "", (tmp_path / "base_images.env").read_text())
    (tmp_path / "base_images.env").write_text(before)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()

    def run(says: str) -> subprocess.CompletedProcess[str]:
        docker.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/asked\necho '{says}'\n")
        docker.chmod(0o755)
        path = {"PATH": f"{docker.parent}:/usr/bin:/bin"}
        return subprocess.run(["sh", tmp_path / "pin_base_images.sh"], env=path, capture_output=True, text=True)

    assert run("").returncode == 1
    assert (tmp_path / "base_images.env").read_text() == before
    assert run("sha256:" + "a" * 64).returncode == 0
    pinned = (tmp_path / "base_images.env").read_text()
    assert pinned.count("@sha256:" + "a" * 64) == 3
    assert pinned.replace("@sha256:" + "a" * 64, "") == before
    (tmp_path / "asked").unlink()
    assert run("sha256:" + "b" * 64).returncode == 0
    assert (tmp_path / "base_images.env").read_text() == pinned
    assert not (tmp_path / "asked").exists()
