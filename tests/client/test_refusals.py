"""Refusals: countable, silent, and without a trace of the file."""

import pickle
import threading
import warnings

import pytest

from client.refusals import Reason, Unreadable, refuses
from shared.errors import DataError

SECRET = "Doe^Jane"


@refuses(otherwise=Reason.MALFORMED)
def fail(fault: Exception) -> None:
    """Warn about a patient, then raise."""
    warnings.warn(SECRET, stacklevel=1)
    raise fault


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (ValueError(SECRET), Reason.MALFORMED),
        (RecursionError(SECRET), Reason.MALFORMED),
        (PermissionError(13, SECRET), Reason.NO_ACCESS),
        (OSError(SECRET), Reason.TRUNCATED),
        (Unreadable(Reason.NO_PIXELS), Reason.NO_PIXELS),
    ],
)
def test_any_exception_becomes_a_refusal_that_says_nothing(fault: Exception, reason: Reason) -> None:
    """Neither message, cause, context nor warning carries what the parser saw."""
    with warnings.catch_warnings(record=True) as seen, pytest.raises(Unreadable) as refusal:
        fail(fault)
    assert refusal.value.reason is reason
    assert SECRET not in str(refusal.value)
    assert SECRET not in repr(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None
    assert not seen


def test_a_result_passes_through() -> None:
    """What succeeds is handed on."""

    @refuses(otherwise=Reason.MALFORMED)
    def double(number: int) -> int:
        return 2 * number

    assert double(4) == 8


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_sentence(reason: Reason) -> None:
    """Each code comes with what was found and what to do, and it is the message."""
    assert str(Unreadable(reason)) == reason.sentence
    assert reason.sentence.count(".") >= 2


def test_a_refusal_crosses_a_process_pool() -> None:
    """It is pickled with its reason, and it is the data's fault."""
    copy = pickle.loads(pickle.dumps(Unreadable(Reason.TRUNCATED)))
    assert isinstance(copy, DataError)
    assert copy.reason is Reason.TRUNCATED


def test_one_thread_does_not_end_the_silence_of_another() -> None:
    """Warnings stay off until the last reader is out, and are then as before."""
    inside, leave = threading.Event(), threading.Event()

    @refuses(otherwise=Reason.MALFORMED)
    def stay() -> None:
        inside.set()
        leave.wait(timeout=10)
        warnings.warn(SECRET, stacklevel=1)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        slow = threading.Thread(target=stay)
        slow.start()
        inside.wait(timeout=10)
        with pytest.raises(Unreadable):
            fail(ValueError())
        leave.set()
        slow.join()
        assert not seen
        warnings.warn("heard again", stacklevel=1)
        assert len(seen) == 1
