"""Prepared images are there once, are right, and survive a kill."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import cache
from client.cache import CachedImages, fill
from client.cohort import CohortImage
from client.dicom import read_image
from client.refusals import Reason
from shared.errors import StorageError
from shared.preprocessing import Contract, prepare
from shared.split import Split

CONTRACT = Contract(size=16, window="percentile", spacing_mm=0, fit="pad", depth="uint8", channels=1)


def images_of(hospital: Any, *, frames: int = 1) -> list[CohortImage]:
    """Make a cohort of all files in the folder."""
    return [
        CohortImage(path=path, frame=frame, patient=0, exam=0, split=Split.TRAIN, labels=(1.0,))
        for path in sorted(hospital.dicom.rglob("*.dcm"))
        for frame in range(frames)
    ]


def fill_all(hospital: Any, images: list[CohortImage], **changes: Any) -> CachedImages:
    usual = {"contract": CONTRACT, "frames": "first", "folder": hospital.folder / "cache"}
    return fill(images, **{**usual, "workers": 1, "progress": lambda *_: None, **changes})


def films(hospital: Any, count: int) -> list[CohortImage]:
    for number in range(count):
        hospital.image(f"{number:03}.dcm", patient="Doe^Jane", exam="1", seed=number)
    return images_of(hospital)


def test_cached_images_are_the_prepared_ones(hospital: Any) -> None:
    """Row by row, what `prepare` makes of the file; nothing is read a second time."""
    images = films(hospital, 5)
    cached = fill_all(hospital, images)
    for image, row in zip(images, cached.rows, strict=True):
        film = read_image(image.path, frames="first")
        expected = prepare(film.pixels_FHWC[0], spacing_mm=None, window=film.window, contract=CONTRACT)
        assert np.array_equal(cached.array[row], expected)
    assert (cached.prepared, cached.reused, cached.unreadable) == (5, 0, {})


def test_a_second_study_reads_no_file_again(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same contract, everything is there; with another, the two do not clash."""
    images = films(hospital, 5)
    first = fill_all(hospital, images)
    other = fill_all(hospital, images, contract=replace(CONTRACT, depth="uint16"))
    assert (other.prepared, other.array.dtype) == (5, np.uint16)
    monkeypatch.setattr(cache, "read_frames", None)
    again = fill_all(hospital, images)
    assert (again.prepared, again.reused, again.digest) == (0, 5, first.digest)
    assert np.array_equal(again.array[again.rows], first.array[first.rows])
    assert again.digest != other.digest
    assert fill_all(hospital, images[::-1]).rows.tolist() == first.rows[::-1].tolist()


def test_new_and_changed_files_alone_are_read(hospital: Any) -> None:
    """A file is known by its path, size and time; a file that is gone leaves its row behind, unused."""
    first = fill_all(hospital, films(hospital, 4))
    before = (hospital.dicom / "001.dcm").stat()
    after = hospital.image("001.dcm", patient="Doe^Jane", exam="1", seed=99).stat()
    assert after.st_size == before.st_size
    hospital.image("new.dcm", patient="Doe^Jane", exam="1", seed=5)
    (hospital.dicom / "002.dcm").unlink()
    images = images_of(hospital)
    second = fill_all(hospital, images)
    assert (second.prepared, second.reused, len(second.array)) == (2, 2, 6)
    fresh = fill_all(hospital, images, folder=hospital.folder / "fresh")
    assert np.array_equal(second.array[second.rows], fresh.array[fresh.rows])
    assert second.digest == fresh.digest != first.digest


def test_hospitals_may_share_a_cache(hospital: Any, tmp_path: Path) -> None:
    """Files of the same name, size and time in two hospitals stay two images."""
    other = type(hospital)(tmp_path / "other")
    for place, seed in ((hospital, 1), (other, 2)):
        os.utime(place.image("0.dcm", patient="P", exam="1", seed=seed), ns=(0, 0))
    here, there = (fill_all(place, images_of(place), folder=tmp_path / "shared") for place in (hospital, other))
    assert (there.prepared, there.reused) == (1, 0)
    assert not np.array_equal(here.array[here.rows], there.array[there.rows])


def test_the_cache_holds_no_name(hospital: Any) -> None:
    """Whoever gets hold of the cache folder learns neither path nor patient."""
    hospital.image("Doe^Jane.dcm", patient="Doe^Jane", exam="1")
    fill_all(hospital, images_of(hospital))
    for path in (hospital.folder / "cache").rglob("*"):
        assert "Doe" not in path.name
        assert path.is_dir() or b"Doe" not in path.read_bytes()


def test_what_cannot_be_read_is_counted_and_tried_again(hospital: Any) -> None:
    """NaN, cut-off and vanished files have their reason by place; a mended file is read the next time."""
    images = films(hospital, 4)
    nan, cut, gone = (images[place].path for place in (0, 1, 2))
    not_a_number = np.full((8, 8), np.nan, dtype="<f4").tobytes()
    hospital.image(
        nan.name, patient="P", exam="1", PixelData=None, BitsAllocated=32, BitsStored=32, FloatPixelData=not_a_number
    )
    whole = cut.read_bytes()
    cut.write_bytes(whole[:-9])
    gone.unlink()
    cached = fill_all(hospital, images)
    assert cached.unreadable == {0: Reason.NOT_FINITE, 1: Reason.TRUNCATED, 2: Reason.NO_ACCESS}
    assert cached.rows.tolist() == [-1, -1, -1, 0]
    cut.write_bytes(whole)
    assert sorted(fill_all(hospital, images).unreadable) == [0, 2]


def test_an_image_without_spacing_is_counted(hospital: Any) -> None:
    """A study in mm cannot use a film that does not say its own."""
    cached = fill_all(hospital, films(hospital, 1), contract=replace(CONTRACT, spacing_mm=0.5))
    assert cached.unreadable == {0: Reason.NO_SPACING}
    assert cached.array.shape == (0, 1, 16, 16)


def test_all_frames_have_rows_of_their_own(hospital: Any) -> None:
    """A file's frames are read at once; a header that promised more of them than there are is a truncated file."""
    hospital.image("loop.dcm", patient="P", exam="1", NumberOfFrames=3)
    cached = fill_all(hospital, images_of(hospital, frames=3), frames="all")
    assert cached.rows.tolist() == [0, 1, 2]
    film = read_image(hospital.dicom / "loop.dcm", frames="all")
    for frame in range(3):
        expected = prepare(film.pixels_FHWC[frame], spacing_mm=None, window=None, contract=CONTRACT)
        assert np.array_equal(cached.array[frame], expected)
    middle = fill_all(hospital, images_of(hospital), frames="middle")
    assert np.array_equal(middle.array[middle.rows[0]], cached.array[1])
    first = fill_all(hospital, images_of(hospital), frames="first")
    assert np.array_equal(first.array[first.rows[0]], cached.array[0])
    short = fill_all(hospital, images_of(hospital, frames=4), frames="all")
    assert short.unreadable == dict.fromkeys(range(4), Reason.TRUNCATED)


def test_progress_starts_at_what_is_there_and_ends_at_all(hospital: Any) -> None:
    """The bar says the truth after a restart."""
    images = films(hospital, 3)
    fill_all(hospital, images[:2])
    seen: list[tuple[int, int]] = []
    fill_all(hospital, images, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 3), (3, 3)]


def test_a_full_disk_is_said_with_its_numbers(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the first image is read."""
    images = films(hospital, 3)
    monkeypatch.setattr("client.row_store._free", lambda _: 600)
    with pytest.raises(StorageError, match="768 bytes are needed for 3 images and 600 are free"):
        fill_all(hospital, images)
    monkeypatch.undo()
    assert fill_all(hospital, images).prepared == 3


SLOW_FILL = """
    import multiprocessing, sys, time
    from pathlib import Path
    from client import cache, cohort
    from shared.preprocessing import Contract
    from shared.split import Split

    def progress(done, total):
        print(done, *(child.pid for child in multiprocessing.active_children()), flush=True)
        if done == 50:
            time.sleep(60)  # until it is killed

    if __name__ == "__main__":
        cache.FILES_WORTH_A_WORKER = 1
        root, folder = map(Path, sys.argv[1:])
        images = [
            cohort.CohortImage(path=path, frame=0, patient=0, exam=0, split=Split.TRAIN, labels=(1.0,))
            for path in sorted(root.rglob("*.dcm"))
        ]
        contract = Contract(size=16, window="percentile", spacing_mm=0, fit="pad", depth="uint8", channels=1)
        cache.fill(
            images, contract=contract, frames="first", folder=folder, workers=2, progress=progress
        )
"""


def test_a_killed_fill_goes_on_where_it_was(hospital: Any) -> None:
    """SIGKILL in the middle: workers end too, what was finished is not read again, the result is undisturbed."""
    images = films(hospital, 100)
    script = hospital.folder / "slow_fill.py"
    script.write_text(textwrap.dedent(SLOW_FILL))
    command = [sys.executable, str(script), str(hospital.dicom), str(hospital.folder / "cache")]
    environment = os.environ | {"PYTHONPATH": str(Path(cache.__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        workers: list[str] = []
        for line in process.stdout or ():
            done, *workers = line.split()
            if int(done) == 50:
                process.send_signal(signal.SIGKILL)
                break
    assert len(workers) == 2
    after = fill_all(hospital, images)
    assert (after.reused, after.prepared) == (48, 52)  # 48 is three commits
    fresh = fill_all(hospital, images, folder=hospital.folder / "fresh")
    assert np.array_equal(after.array[after.rows], fresh.array[fresh.rows])
    assert after.digest == fresh.digest
    deadline = time.monotonic() + 10
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: str) -> bool:
    """Tell whether a process lives; one that nobody has buried yet does not."""
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
