"""The folder of one run: whose study it is, and where each file lies."""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from shared.errors import StorageError, StudyError
from shared.protocol import StudyProtocol, read_protocol
from shared.storage import atomic_file


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """Names the files of a run; `protocol.toml` says whose they are."""

    path: Path

    @property
    def protocol(self) -> Path:
        """The study as it is run, with every default and override written out."""
        return self.path / "protocol.toml"

    @property
    def hospitals(self) -> Path:
        """Synthetic hospitals, where the study made its own."""
        return self.path / "hospitals"

    @property
    def sites(self) -> Path:
        """Of a simulated run: what each site's agent remembers, in a folder of the site's name."""
        return self.path / "sites"

    @property
    def results(self) -> Path:
        """Every fact the report states."""
        return self.path / "results.json"

    @property
    def report(self) -> Path:
        """The page to open."""
        return self.path / "report.html"

    @property
    def model(self) -> Path:
        """The chosen model."""
        return self.path / "model.safetensors"

    @property
    def descriptions(self) -> Path:
        """What each site released of its images, for comparisons with later runs; it is sent to no site."""
        return self.path / "descriptions.json"

    @property
    def order(self) -> Path:
        """Of a deployed run: its id, and which of Flower's runs plays it now."""
        return self.path / "run.json"

    @property
    def ready(self) -> Path:
        """Of a deployed run: what each site said before round 1; the roster stays what it was then."""
        return self.path / "ready.json"

    @property
    def status(self) -> Path:
        """Of a deployed run: where it stands, site by site."""
        return self.path / "status.json"

    @property
    def outcome(self) -> Path:
        """Of a deployed run: how it ended; absent while it runs, and where its process died."""
        return self.path / "outcome.json"

    @property
    def dropped(self) -> Path:
        """Of a deployed run: the sites that are not asked any more."""
        return self.path / "dropped.json"

    @property
    def stopped(self) -> Path:
        """Of a deployed run: there while somebody wants it to rest."""
        return self.path / "stopped"

    @property
    def lock(self) -> Path:
        """Of a deployed run: held by the one process that runs it."""
        return self.path / "lock"

    def refuse_finished(self) -> None:
        """Refuse a deployed run that has ended well: whoever began it again would see its end played once more.

        Raises:
            StorageError: it is finished; its report is named.
        """
        ended = json.loads(self.outcome.read_text(encoding="utf-8")) if self.outcome.exists() else {}
        if ended.get("exit_code") == 0 and self.report.exists():
            raise StorageError(
                f"this study is finished: {self.report}. To run it again, give it another [study] version, and invite "
                "the sites to that."
            )

    def baseline(self, name: str) -> Path:
        """Where a baseline keeps its checkpoints and rounds."""
        return self.path / "baselines" / name


def open_run(path: Path, protocol: StudyProtocol, *, resume: bool) -> RunFolder:
    """Begin a run in a new folder, or go on with one.

    A study that was refused before it did anything leaves its folder free for the next try.

    Raises:
        StorageError: there is a run already and `resume` is False, there is none and it is True, or the run belongs
            to another study.
    """
    run = RunFolder(path=path)
    if resume:
        _refuse_to_resume_another(run, protocol)
        return run
    if run.protocol.exists() and any(entry != run.protocol for entry in path.iterdir()):
        raise StorageError(f"{path} holds a run already. Add --resume to go on with it, or choose another --out.")
    with atomic_file(run.protocol) as part:
        part.write_text(protocol.to_toml(), encoding="utf-8")
    return run


def open_lock(path: Path) -> TextIO:
    """Open a run's lock, for its user alone: who may read a file may lock it (flock(2)), and hold the run up."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with suppress(PermissionError):  # an earlier version's could be read by all
        os.fchmod(descriptor, 0o600)
    return os.fdopen(descriptor, "r+", encoding="ascii")


def default_folder(protocol: StudyProtocol) -> Path:
    """Name a run's folder after its study."""
    return Path("runs") / (re.sub(r"[^a-z0-9]+", "-", protocol.study.name.lower()).strip("-") or "study")


def _refuse_to_resume_another(run: RunFolder, protocol: StudyProtocol) -> None:
    if not run.protocol.exists():
        raise StorageError(
            f"{run.path} holds no run to resume. Leave out --resume, or name the run's folder with --out."
        )
    if _digest_of(run.protocol) != protocol.digest():
        raise StorageError(
            f"{run.path} holds a run of another study, or of this one with other settings. "
            f"Resume it with `polyclinic simulate {run.protocol} --resume --out {run.path}` and the --sites that it "
            "began with, or choose another --out."
        )


def _digest_of(path: Path) -> str | None:
    try:
        return read_protocol(path).digest()
    except StudyError:
        return None
