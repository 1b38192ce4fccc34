"""Why a DICOM file was not read, as one of a few countable codes, without a word of what it holds."""

import contextlib
import functools
import threading
import types
import warnings
from collections.abc import Callable
from enum import StrEnum
from typing import ParamSpec, TypeVar

from shared.errors import DataError

P = ParamSpec("P")
R = TypeVar("R")


class Reason(StrEnum):
    """Why a file or an image is left out; the value is the code that is counted and may leave."""

    NO_ACCESS = "no_access"
    EMPTY = "empty"
    NOT_DICOM = "not_dicom"
    MALFORMED = "malformed"
    TRUNCATED = "truncated"
    NO_PIXELS = "no_pixels"
    UNSUPPORTED_OBJECT = "unsupported_object"
    UNDECODABLE = "undecodable"
    TOO_LARGE = "too_large"
    NOT_FINITE = "not_finite"
    NO_SPACING = "no_spacing"
    NO_PATIENT = "no_patient"
    WRONG_MODALITY = "wrong_modality"

    @property
    def sentence(self) -> str:
        """What was found and what to do about it, without a word from the file."""
        return _SENTENCES[self]


_SENTENCES = {
    Reason.NO_ACCESS: "A file could not be opened. Check that it exists and that this user may read it.",
    Reason.EMPTY: "A file holds no bytes. Export it again, or delete it.",
    Reason.NOT_DICOM: "A file is not DICOM. Move it out of the DICOM folder.",
    Reason.MALFORMED: "A DICOM header breaks the standard where it is needed. Export the exam again.",
    Reason.TRUNCATED: "A DICOM file ends before its data does. Copy or export it again.",
    Reason.NO_PIXELS: "A DICOM object holds no image (a report, a plan, a presentation). Nothing to do.",
    Reason.UNSUPPORTED_OBJECT: (
        "A DICOM object holds a segmentation, a dose, a map or slide tiles, not an image to read: nothing to do. "
        "Or a picture has several frames, transparency, or pixels that are neither plain grey nor plain colour: "
        "convert it."
    ),
    Reason.UNDECODABLE: (
        "Pixel data could not be decoded: the compression is unknown or the data are damaged. "
        "Export the exam again, uncompressed if that is offered."
    ),
    Reason.TOO_LARGE: ("An image has more pixels than this version reads at once. Use frames = 'first' or 'middle'."),
    Reason.NOT_FINITE: "An image holds values that are not numbers (NaN or infinite). Export the exam again.",
    Reason.NO_SPACING: (
        "An image does not say its pixel spacing, and the study resamples to mm. "
        "Leave it out, or set [images] spacing_mm = 0 in the study."
    ),
    Reason.NO_PATIENT: (
        "A file has no PatientID, or its label row names no patient, and patients must not be mixed up. Fill it in."
    ),
    Reason.WRONG_MODALITY: "A file is of another modality than the study's. Nothing to do.",
}


class Unreadable(DataError):  # noqa: N818  a finding that is counted, and goes on, more than an error that stops
    """A DICOM file that cannot be used; `reason` is counted, and the message names neither file nor value."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason.sentence


def refuses(*, otherwise: Reason) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function that handles a foreign file raise nothing but Unreadable, and say nothing.

    What the operating system refuses becomes `no_access`, the end of a file in the middle of an element
    `truncated` (pydicom: an OSError without a number) and any other exception `otherwise`. The new exception has
    no cause and no context: what a parser writes in its messages is often the value that it stumbled over. For
    the same reason warnings are silenced meanwhile.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                with _SILENCE:
                    return function(*args, **kwargs)
            except Unreadable as fault:
                reason = fault.reason
            except OSError as fault:
                reason = Reason.TRUNCATED if fault.errno is None else Reason.NO_ACCESS
            except Exception:  # a parser of hostile bytes may raise anything, and each means the same: not read
                reason = otherwise
            raise Unreadable(reason)

        return guarded

    return decorate


class _Silence:
    """Silences Python's warnings while at least one thread is inside.

    `warnings.catch_warnings` alone would let one thread switch the warnings of another back on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                self._filters.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._filters.close()


_SILENCE = _Silence()
