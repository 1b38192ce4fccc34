"""How long a silent site is waited for before it is sent its task again: three times what it took before."""

LONGEST_SECONDS = 600.0
"""A site of which nothing is known yet is waited for so long: a first round may take hours, and a task is the model."""

LEAST_SECONDS = 60.0
"""A link asks every 3 s, and Flower takes a minute to notice that a courier died."""

TIMES_BEFORE = 3.0


class Patience:
    """Remembers how long each site took at most for each kind of task, from the sending that it answered.

    A lost HTTP answer leaves a Flower run waiting for ever, and nothing tells it from a site that still works. Sending
    a task again costs its bytes and no work: a site knows it by its id, and does nothing twice. The wait doubles with
    each sending, so that a round which takes longer than any before is not asked for more often than need be.
    """

    def __init__(self) -> None:
        self._took: dict[tuple[int, str], float] = {}

    def note(self, node: int, kind: str, seconds: float) -> None:
        """Take in that a site answered a task of this kind so long after it was sent."""
        self._took[node, kind] = max(seconds, self._took.get((node, kind), 0.0))

    def seconds(self, node: int, kind: str, *, sent: int) -> float:
        """Say how long to wait for a site's answer to a task that was sent so many times by now."""
        took = self._took.get((node, kind))
        if took is None:
            return LONGEST_SECONDS
        return min(LONGEST_SECONDS, max(LEAST_SECONDS, TIMES_BEFORE * took) * 2.0 ** (sent - 1))
