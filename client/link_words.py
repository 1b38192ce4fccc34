"""Reads what Flower's link writes, passes it on, and says in plain words what a fault means and what to do about it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

_ENROLL = (
    "Send the coordinator the file that `polyclinic site keys` writes, and ask for `polyclinic coordinator enroll`; "
    "then start the link again."
)

FAULTS: Final[Sequence[tuple[Sequence[str], str]]] = (
    (
        ('"code":2004', '"code": 2004', "code: 2004"),
        f"the coordinator does not know this site's key: it is not enrolled there, or was revoked. {_ENROLL}",
    ),
    (
        ("CERTIFICATE_VERIFY_FAILED",),
        "the coordinator's certificate is not the one that the invitation names. Ask the coordinator whether its "
        "address or its certificate authority changed; if so, `polyclinic site approve` a new invitation.",
    ),
    (
        ("address already in use",),
        "the runtime address is in use on this machine: a link runs already, or another program is there. Stop it, or "
        "give link and courier another --runtime.",
    ),
    (
        ("Exit Code: 302",),
        "this site's node key cannot be read. Look at the [link] keys folder of site.toml, and at who may read it.",
    ),
    (
        ("Exit Code: 305",),
        "the coordinator let no link begin. Within a minute of a crash that passes by itself. Else this site's key is "
        f"not enrolled there, or was revoked. {_ENROLL}",
    ),
)
"""Marks of a fault in Flower's own lines, and what to say after them; one whose cause was told is not told again."""


def passed_on(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Give each line as it is; after one with a fault's mark what it means, once, and 305 if nothing else was told."""
    told: set[str] = set()
    for line in lines:
        yield line
        said = next((words for marks, words in FAULTS if any(mark.encode() in line for mark in marks)), None)
        if said is not None and said not in told and not (told and b"Exit Code: 305" in line):
            told.add(said)
            yield f"polyclinic: {said}\n".encode()


def listen() -> None:
    """Put a reader behind this process' stderr: it stays when the process becomes another program, and ends with it."""
    reader = subprocess.Popen([sys.executable, "-m", "client.link_words"], stdin=subprocess.PIPE, env=os.environ)
    if reader.stdin is not None:
        os.dup2(reader.stdin.fileno(), sys.stderr.fileno())


def main() -> None:
    """Pass stdin on to stderr until it ends; what ends the link does not end its last words."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for line in passed_on(sys.stdin.buffer):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()


if __name__ == "__main__":
    main()
