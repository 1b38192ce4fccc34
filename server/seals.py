"""What a run's tasks are signed with, and what its replies are known by."""

from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import Message, RecordDict

from server.admission import Accepted, Refused, open_reply
from shared.signing import Purpose, SigningKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Seals:
    """The coordinator's own key, and every site's enrolled one. Without them nothing is signed, and nothing checked."""

    key: SigningKey | None = None
    sites: Mapping[str, str] | None = None

    def seal(self, content: RecordDict) -> str:
        """Sign a task, and give the digest of all that it asks."""
        return self.key.sign(content, Purpose.TASK) if self.key else ""

    def opened(
        self, message: Message, *, site: str, task_id: str, request: str, kind: type[Accepted]
    ) -> Accepted | Refused:
        """Open a site's reply to the task that was sealed with this digest (server/admission.py)."""
        key = None if self.sites is None else self.sites[site]
        return open_reply(message, task_id=task_id, kind=kind, key=key, request=request)


UNSEALED = Seals()
"""For a coordinator whose sites are in the same process, in a test of its own."""
