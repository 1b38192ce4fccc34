"""Says which of a study's findings a hospital does not assess, and under what name it may have meant them."""

import difflib
from collections.abc import Collection, Iterator, Sequence


def not_assessed(targets: Sequence[str], findings: Collection[str]) -> Iterator[str]:
    """Say of each target that is no key of [data.findings] that it is not assessed here, with the nearest key.

    A key that is another of the study's targets is no misspelling.
    """
    others = {finding.casefold(): finding for finding in findings if finding not in targets}
    for target in targets:
        if target not in findings:
            near = difflib.get_close_matches(target.casefold(), others, n=1, cutoff=0.7)
            meant = f" Did you mean '{others[near[0]]}', which [data.findings] has?" if near else ""
            yield f"The study's '{target}' is not in [data.findings] and counts as not assessed at this site.{meant}"
