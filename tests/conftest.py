"""Fixtures that more than one room's tests need; heavy imports wait until a test asks for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from client.agent import Agent
    from client.bootstrap import PreparedSite
    from client.workbench import Workbench
    from shared.messages import Reply, Task
    from shared.protocol import StudyProtocol

# Before torch is imported, and for every process that a test starts: one thread, so that bits can be compared and a
# machine with other work does not make threads spin for each other; two tests at a time use two cores (Makefile).
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

# How long an example takes is no test's business: a busy machine would fail it.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


_UMASK = os.umask(0o022)
os.umask(_UMASK)


@pytest.fixture(autouse=True)
def _umask_as_it_was() -> Iterator[None]:
    """Open again what a site's command closed for its whole process: the files that it writes, to all others."""
    yield
    os.umask(_UMASK)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Give the folder of real films and odd DICOM files beside the checkout, or skip, saying so."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real films and odd DICOM files (../shared/data) is not beside this checkout")
    return SHARED_DATA


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: a tiny model is only slowed down by more."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class TinyStudy:
    """Builds studies that a test can afford: a ResNet-18 at 32 px, and hospitals of a few patients in memory."""

    def protocol(self, **sections: dict[str, Any]) -> StudyProtocol:
        """Give a study without augmentation; a section's keys go over the tiny ones, and [task] replaces them."""
        from shared.errors import StudyError
        from shared.protocol import StudyProtocol, parse

        off = ("rotation_degrees", "translate", "scale", "brightness", "contrast")
        tiny: dict[str, dict[str, Any]] = {
            "study": {"name": "Tiny", "intended_use": "Tests."},
            "task": {"findings": ["opacity"]},
            "images": {"size": 32, "channels": 1},
            "augmentation": dict.fromkeys(off, 0.0),
            "model": {"weights": "none"},
            "training": {"batch_size": 8},
            "federation": {"rounds": 2},
            "evaluation": {"score_bins": 16},
        }
        merged = {
            section: tiny.get(section, {}) | sections.get(section, {})
            for section in {**tiny, **sections}
            if section != "task"
        }
        return parse(
            {"task": sections.get("task", tiny["task"])} | merged, StudyProtocol, where="study", error=StudyError
        )

    def bench(self, protocol: StudyProtocol) -> Workbench:
        """Give a CPU workbench that holds the study's model."""
        import torch

        from client.workbench import Workbench
        from server.bootstrap import compose

        _, model = compose(protocol, weights_file=None)
        return Workbench(model, device=torch.device("cpu"), precision="fp32")

    def private_protocol(self, *, federation: Any = None, **privacy: Any) -> StudyProtocol:
        """Give a private study that takes every patient in every step: its plan is computed in closed form."""
        from shared.protocol import StudyProtocol

        training = {"batch_size": 64, "optimiser": "sgd", "lr_head": 0.4, "momentum": 0.0}
        plain = self.protocol(training=training, federation=federation or {})
        data = plain.model_dump(mode="json", by_alias=True, exclude_none=True)
        del data["task"]["classes"]
        data["model"] |= {"norm": "folded", "features": "unit"}
        data["training"]["loss"] = "bce"
        return StudyProtocol.model_validate(data | {"privacy": privacy})

    def hospital(
        self,
        protocol: StudyProtocol,
        folder: Path,
        *,
        name: str = "north",
        patients: int = 20,
        min_cell: int = 1,
        labels: Callable[[int], Sequence[float]] | None = None,
    ) -> PreparedSite:
        """Give a hospital of films of noise, with a bright square where the first target is 1.

        Half of the patients train, a quarter each validates and tests. Every fifth has two films in an exam. Labels
        are 1 for every other patient of a side, or what `labels` says of a patient's number.
        """
        import numpy as np

        from client.bootstrap import PreparedSite
        from client.cohort import Cohort, CohortImage
        from client.patient_flow import FileFate
        from client.people import Doubts
        from client.site import SiteConfig
        from client.site_data import Pixels, Records
        from shared.split import Split

        sides = (Split.TRAIN, Split.VALIDATION, Split.TRAIN, Split.TEST)
        targets = len(protocol.task.targets)

        def every_other(patient: int) -> Sequence[float]:
            return [float((patient // 4 + place) % 2) for place in range(targets)]

        images = tuple(
            CohortImage(
                path=folder / f"{patient}-{film}.dcm",
                frame=0,
                patient=patient,
                exam=patient,
                split=sides[patient % 4],
                labels=tuple((labels or every_other)(patient)),
            )
            for patient in range(patients)
            for film in range(2 if patient % 5 == 0 else 1)
        )
        files = tuple(
            FileFate(relative=image.path.name, patient=image.patient, row=None, reason=None) for image in images
        )
        doubts = Doubts(alike=0, ids_alike=0, own_id_each=0, studies=0, ids_joined=0)
        cohort = Cohort(folder=folder, images=images, files=files, rows=(), targets=targets, doubts=doubts)
        size = protocol.images.size
        rng = np.random.default_rng(list(name.encode()))
        films = rng.integers(0, 160, (len(images), 1, size, size), dtype=np.uint8)
        films[cohort.labels_NK[:, 0] == 1, :, 8:24, 8:24] += 90
        return PreparedSite(
            config=SiteConfig.model_validate(
                {
                    "site": {"name": name},
                    "data": {"dicom": folder, "labels": folder, "join": "path", "findings": {"opacity": "opacity"}},
                    "policy": {"min_cell": min_cell},
                    "compute": {"cache": folder / "cache" / name, "workers": 1},
                }
            ),
            cohort=cohort,
            records=Records(
                labels_NK=cohort.labels_NK,
                patients_N=cohort.patients_N,
                exams_N=cohort.exams_N,
                split_N=cohort.split_N,
            ),
            pixels=Pixels(cached=films, cached_row_N=np.arange(len(images)), digest=f"{name} {patients}"),
        )

    def agent(self, protocol: StudyProtocol, folder: Path, *, bench: Workbench | None = None, **hospital: Any) -> Agent:
        """Give the agent of a hospital, on a bench of its own if none is given."""
        from client.bootstrap import compose_agent, site_inputs

        site = self.hospital(protocol, folder, **hospital)
        bench = bench or self.bench(protocol)
        inputs = site_inputs(site, protocol, bench, progress=lambda *_: None)
        return compose_agent(site, protocol, bench, inputs, folder=folder / "sites" / site.name)


@pytest.fixture(scope="session")
def tiny() -> TinyStudy:
    """Give a builder of studies, hospitals and agents small enough for a test."""
    return TinyStudy()


class ScriptedSite:
    """A site that answers each task as a test says, through the real encoding; `asked` keeps the tasks."""

    def __init__(self, answer: Callable[[Task], Reply]) -> None:
        self._answer = answer
        self.asked: list[Task] = []

    def handle(self, frames: Iterable[bytes]) -> Iterator[bytes]:
        """Answer one task, as `Agent.handle` does."""
        from shared.messages import Answer, decode_task, encode_answer
        from shared.wire import from_frames, to_frames

        task = decode_task(from_frames(frames))
        self.asked.append(task)
        yield from to_frames(encode_answer(Answer(task_id=task.header.task_id, reply=self._answer(task))))


@pytest.fixture(scope="session")
def scripted_site() -> type[ScriptedSite]:
    """Give a site without patients or model, for tests of the coordinator."""
    return ScriptedSite


@pytest.fixture(scope="session")
def hospitals_on_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with two small synthetic hospitals, north and south, as DICOM files; do not change them."""
    from simulations.synthetic_site import write
    from simulations.synthetic_study import plain_hospital

    folder = tmp_path_factory.mktemp("hospitals")
    for name in ("north", "south"):
        site = plain_hospital(name, patients=24)
        write(site, folder / name, findings=["opacity"], exclusive=False, workers=1, progress=lambda *_: None)
    return folder


@pytest.fixture(scope="session")
def tiny_study(tmp_path_factory: pytest.TempPathFactory, tiny: TinyStudy) -> Path:
    """Give the file of a study that trains the head of a ResNet-18 at 32 px for two rounds."""
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(tiny.protocol().to_toml(), encoding="utf-8")
    return path
