"""All approved studies behind one socket: each task goes to the agent of the study that it names, and to no other."""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from client.agent_service import Handler
from shared.errors import PolyclinicError, StorageError, TaskError
from shared.messages import Refusal

Refuse = Callable[[Exception], list[bytes]]
"""Turns a fault into the frames of a fixed code."""


class StudyRouter:
    """Holds one handler a study, by its digest; a study that is not prepared yet is told so, and asked again.

    What a task names is not believed: it only chooses the agent that looks at the task. A task of another study goes to
    one of them too, which refuses it like any that its hospital did not approve. An approval that was taken back, or
    given anew, ends its study here with the next task. `approved` says whether the one that is served still stands, or
    raises StorageError where it cannot tell now: then this task is refused, and the study goes on with the next.
    """

    def __init__(self, digests: Iterable[str], *, refuse: Refuse, approved: Callable[[str], bool]) -> None:
        self._handlers: dict[str, Handler] = dict.fromkeys(digests, self._preparing)
        self._ready: dict[str, Handler] = {}
        self._refuse, self._approved = refuse, approved

    def ready(self, digest: str, handler: Handler) -> None:
        """Let a study's tasks be answered from now on."""
        self._ready[digest] = self._handlers[digest] = handler

    def failed(self, digest: str, fault: PolyclinicError) -> None:
        """Let a study's tasks be refused with the code of what went wrong when it was prepared."""
        self._handlers[digest] = self._refusing(fault)

    def handle(self, frames: Iterable[bytes]) -> Iterator[bytes]:
        """Answer one task by the agent of its study."""
        request = iter(frames)
        first = next(request, b"")
        yield from self._handler(_study_named(first))(chain([first] if first else [], request))

    def _handler(self, digest: str) -> Handler:
        for known in tuple(self._handlers):
            try:
                if not self._approved(known):
                    del self._handlers[known]
                    self._ready.pop(known, None)
            except StorageError as fault:
                if known == digest:
                    return self._refusing(fault)
        if digest in self._handlers:
            return self._handlers[digest]
        anyone = next(iter((*self._ready.values(), *self._handlers.values())), None)
        return anyone or self._unknown

    def _refusing(self, fault: PolyclinicError) -> Handler:
        return lambda _: iter(self._refuse(fault))

    def _preparing(self, _: Iterable[bytes]) -> Iterator[bytes]:
        yield from self._refuse(TaskError(Refusal.PREPARING, "the images are being prepared"))

    def _unknown(self, _: Iterable[bytes]) -> Iterator[bytes]:
        yield from self._refuse(
            TaskError(
                Refusal.UNKNOWN_PROTOCOL,
                "no approval stands under which this agent was started. Start it again if one was given since.",
            )
        )


def _study_named(first: bytes) -> str:
    """Read the digest in a task's first frame; "" where there is none to read."""
    try:
        named = json.loads(first)["configs"]["task"]["protocol"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return named if isinstance(named, str) else ""
