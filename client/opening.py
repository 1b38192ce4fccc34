"""Reads a task as it comes in: of this version, signed by the coordinator that the approval names, and well formed."""

from collections.abc import Iterable

from shared.errors import TaskError
from shared.messages import OtherVersionError, Refusal, Task, check_version, decode_task
from shared.signing import Purpose, signed_digest
from shared.wire import TooLargeError, from_frames


def open_task(frames: Iterable[bytes], *, most_bytes: int, coordinator: str | None) -> tuple[Task, str]:
    """Give a task, and the digest of all that it asks, which the reply is to name.

    `coordinator` is the public key that was approved; None only where the coordinator is in the same process and signs
    nothing: then the digest is "".

    Raises:
        TaskError: it is too large, of another version, not signed with that key, or malformed.
        Exception: whatever the transport raises.
    """
    try:
        content = from_frames(frames, most_bytes=most_bytes)
        check_version(content)
        request = "" if coordinator is None else signed_digest(content, coordinator, Purpose.TASK)
        if request is None:
            raise TaskError(
                Refusal.NOT_SIGNED,
                "the task is not signed with the coordinator's key that was approved. If the coordinator has a new "
                "key, approve its new invitation",
            )
        return decode_task(content), request
    except TooLargeError:
        raise TaskError(Refusal.TOO_LARGE, f"the task announces more than {most_bytes} bytes") from None
    except OtherVersionError:
        raise TaskError(Refusal.OTHER_VERSION, "the task is of another version of the encoding") from None
    except ValueError as fault:  # it names a part of the message, never its content
        raise TaskError(Refusal.MALFORMED, f"malformed: {fault}") from None
