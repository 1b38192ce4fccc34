"""One door per library: the few modules that may import it, so that it can be replaced, or kept out, in one place."""

import re
import sys
import tomllib

DOORS = {
    "PIL": {"client/pictures.py", "simulations/augmentation_sheet.py"},
    "click": {"client/bundle.py"},
    "cryptography": {
        "client/noise.py",
        "client/site_keys.py",
        "server/certificates.py",
        "server/fleet.py",
        "shared/signing.py",
    },
    "flwr": {
        "client/bundle.py",
        "client/courier.py",
        "server/admission.py",
        "server/app.py",
        "server/asking.py",
        "server/bundle.py",
        "server/deployed_run.py",
        "server/fleet.py",
        "server/pulling.py",
        "server/rounds.py",
        "server/seals.py",
        "server/strategy.py",
        "server/study_run.py",
        "server/superlink.py",
        "shared/messages.py",
        "shared/signing.py",
        "shared/wire.py",
        "simulations/in_process_grid.py",
    },
    "grpc": {"client/agent_service.py", "client/courier.py", "client/site_status.py"},
    "grpc_health": {"client/agent_service.py", "client/site_status.py"},
    "httpx": {"client/coordinators_clock.py", "server/asking.py", "server/fleet.py"},
    "imagecodecs": {
        "client/frames.py",
        "client/review_page.py",
        "client/run_lengths.py",
        "simulations/dicom_writer.py",
    },
    "jinja2": {"server/report.py"},
    "markupsafe": {"server/model_card.py", "server/monitor_page.py", "server/report.py"},
    "matplotlib": {"server/figures.py"},
    "onnxruntime": {"client/onnx_scorer.py", "server/onnx_export.py"},
    "opacus": {"shared/privacy.py"},
    "openpyxl": {"client/workbook.py"},
    "prometheus_client": {"client/exporter.py", "client/metrics.py", "server/monitor_metrics.py"},
    "pydantic": {
        "client/approval.py",
        "client/site.py",
        "server/coordinator_config.py",
        "server/enrolment.py",
        "shared/declaration.py",
        "shared/invitation.py",
        "shared/protocol.py",
    },
    "pydicom": {
        "client/calibration.py",
        "client/colours.py",
        "client/segmented_table.py",
        "client/dicom.py",
        "client/encapsulation.py",
        "client/frames.py",
        "client/voi.py",
        "simulations/dicom_writer.py",
    },
    "rich": {
        "client/prediction_cli.py",
        "client/site_check.py",
        "simulations/cli.py",
        "simulations/console.py",
    },
    "safetensors": {
        "client/knowable_faults.py",  # what it raises, and no file
        "client/delivery.py",
        "client/intake.py",
        "client/local_norm.py",
        "server/checkpoint.py",
        "server/onnx_export.py",
        "shared/saved_model.py",
        "shared/weights.py",
    },
    "scipy": {
        "shared/average_precision.py",
        "shared/corner_test.py",
        "shared/domain_shift.py",
        "shared/intervals.py",
        "shared/prediction.py",
        "shared/score_calibration.py",
        "shared/site_identifiability.py",
    },
    "tomli_w": {
        "client/approval.py",
        "server/coordinator.py",
        "server/enrolment.py",
        "shared/invitation.py",
        "shared/protocol.py",
        "simulations/local_federation.py",
    },
    "torchvision": {"shared/vision.py"},
    "typer": {
        "client/cli.py",
        "client/prediction_cli.py",
        "server/cli.py",
        "server/coordinator_cli.py",
        "shared/cli.py",
        "simulations/cli.py",
        "simulations/federation_cli.py",
    },
}
"""Who may import what. A library that stands neither here nor in EVERYWHERE may not be imported at all."""

EVERYWHERE = {"numpy", "torch"}
"""Arrays are what this project is made of."""

NEED_NO_TORCH = (
    "client/courier.py",
    "client/superexec.py",
    "shared/cli.py",
    "shared/declaration.py",
    "shared/messages.py",
    "shared/protocol.py",
    "shared/wire.py",
)
"""What a process without torch must be able to import: the command line, and whoever relays messages for a site."""

ROLES = {
    "shared": ("agent", "coordinator"),
    "client": ("agent",),
    "server": ("coordinator",),
    "simulations": ("simulate",),
}
"""The extras with which each room must work; shared must work with either."""

OPTIONAL = {"onnxruntime": "onnx", "openpyxl": "xlsx"}
"""Libraries that stand in an extra of their own; without one, its command says how to get it."""

IMPORT_NAMES = {"grpcio": "grpc", "grpcio-health-checking": "grpc_health", "pillow": "PIL", "tomli-w": "tomli_w"}
COMES_WITH = {"click": "typer", "httpx": "flwr", "markupsafe": "jinja2"}
PLUGINS = {"pylibjpeg"}
"""Loaded by pydicom when they are installed, never imported by us."""


def strangers(house) -> list[str]:
    """List the imports of libraries by modules that are not their doors."""
    ours = {path.split("/")[0] for path in house.modules()}
    known = sys.stdlib_module_names | ours | EVERYWHERE
    return [
        f"{path} imports {name}"
        for path in house.modules()
        if not path.startswith("benchmarks/")  # they measure other libraries too
        for name in sorted(house.libraries(path) - known)
        if path not in DOORS.get(name, ())
    ]


def walled_up(house) -> list[str]:
    """List the doors through which nothing comes any more."""
    existing = set(house.modules())
    return [
        f"{path} for {name}"
        for name, doors in DOORS.items()
        for path in sorted(doors)
        if path not in existing or name not in house.libraries(path)
    ]


def reached(house, path: str) -> set[str]:
    """Collect all modules that importing one of them imports."""
    found, todo = set(), [path]
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            todo += house.neighbours(module)
    return found


def declared(house) -> dict[str, set[str]]:
    """Read pyproject.toml: the import names of the libraries of each extra, those of all roles included."""
    project = tomllib.loads(house.text("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]

    def names(lines: list[str]) -> set[str]:
        found: set[str] = set()
        for line in lines:
            name = re.match(r"[A-Za-z0-9._-]+", line).group().lower()
            if name == project["name"]:
                found |= names([one for extra in re.search(r"\[(.*)\]", line)[1].split(",") for one in extras[extra]])
            else:
                found.add(IMPORT_NAMES.get(name, name.replace("-", "_")))
        return found

    return {extra: names(project["dependencies"] + lines) for extra, lines in extras.items()}


def undeclared(house) -> list[str]:
    """List the imports of libraries that the room's extras in pyproject.toml do not install."""
    extras = declared(house)
    found = []
    for path in house.modules():
        room = path.split("/")[0]
        for role in ROLES.get(room, ()):
            wanted = {COMES_WITH.get(name, name) for name in house.libraries(path) & (set(DOORS) | EVERYWHERE)}
            found += [
                f"{path} imports {name}, which [{role}] does not install"
                for name in sorted(wanted - extras[role])
                if name not in extras.get(OPTIONAL.get(name, ""), ())
            ]
    return found


def unused(house) -> list[str]:
    """List the libraries that the roles install and that no room imports."""
    imported = {name for path in house.modules() for name in house.libraries(path)}
    return sorted(declared(house)["simulate"] - imported - PLUGINS)


def test_libraries_come_in_through_their_doors_only(house):
    """A module that is no door does not import the library."""
    assert strangers(house) == []


def test_every_door_is_in_use(house):
    """The table of doors says what is, not what was."""
    assert walled_up(house) == []


def test_what_relays_messages_needs_no_torch(house):
    """The command line and the wire work where neither torch nor scipy nor pydicom is installed."""
    light = {"cryptography", "flwr", "grpc", "httpx", "numpy", "pydantic", "rich", "tomli_w", "typer"}
    heavy = {
        f"{path}: {module} imports {name}"
        for path in NEED_NO_TORCH
        for module in reached(house, path)
        for name in house.libraries(module) & (set(DOORS) | EVERYWHERE) - light
    }
    assert heavy == set()


def test_each_role_installs_what_its_room_imports(house):
    """A hospital installs [agent] and a coordinator [coordinator], and nothing is missing."""
    assert undeclared(house) == []


def test_nothing_is_installed_that_nobody_imports(house):
    """Every library that a user downloads is needed."""
    assert unused(house) == []


def test_a_stranger_at_the_door_is_caught(build):
    """A library outside the table is a stranger everywhere; one in it is so at every module but its doors."""
    files = {
        "client/dicom.py": "from pydicom import dcmread\n",
        "client/cohort.py": "def f():\n    import pydicom.uid\n",
        "shared/vision.py": "import torchvision, numpy, json, shared.errors\n",
        "shared/model.py": "import seaborn\n",
    }
    assert strangers(build(files)) == ["shared/model.py imports seaborn", "client/cohort.py imports pydicom"]


def test_an_unused_door_is_caught(build):
    """A door whose module no longer imports the library, or is gone, is reported."""
    found = walled_up(build({"shared/vision.py": "import torch\n"}))
    assert "shared/vision.py for torchvision" in found
    assert "server/report.py for jinja2" in found


def test_what_an_extra_forgets_or_does_not_need_is_caught(build):
    """A room may import only what its own extra installs, and an extra installs only what is imported."""
    project = """
        [project]
        name = "polyclinic"
        dependencies = ["numpy>=2"]
        [project.optional-dependencies]
        agent = ["pydicom>=3"]
        coordinator = ["jinja2>=3", "tomli-w"]
        simulate = ["polyclinic[agent,coordinator]", "pillow"]
        """
    house = build(
        {
            "pyproject.toml": project,
            "client/dicom.py": "import pydicom, numpy, jinja2\n",
            "server/report.py": "import jinja2, markupsafe, pydicom\n",
        }
    )
    assert undeclared(house) == [
        "client/dicom.py imports jinja2, which [agent] does not install",
        "server/report.py imports pydicom, which [coordinator] does not install",
    ]
    assert unused(house) == ["PIL", "tomli_w"]
