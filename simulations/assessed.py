"""Refuses a study of which some finding is assessed at no hospital: nothing would be learnt of it, in silence."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import numpy as np

from client.bootstrap import PreparedSite
from client.site import SiteConfig
from shared.errors import StudyError


def refuse_unknown(findings: Sequence[str], sites: Iterable[SiteConfig]) -> None:
    """Refuse a finding that no site.toml names, before an image is read.

    Raises:
        StudyError: it names the finding, and the nearest that a hospital has.
    """
    known = sorted({name for site in sites for name in site.data.findings})
    for finding in findings:
        if finding not in known:
            near = get_close_matches(finding, known, n=1)
            raise StudyError(
                f"[task] {finding!r}: no hospital's site.toml has it in [data.findings]. "
                + (f"Did you mean {near[0]!r}?" if near else f"They have: {', '.join(known)}.")
            )


def refuse_unassessed(findings: Sequence[str], sites: Sequence[PreparedSite]) -> None:
    """Refuse a finding that no image of any hospital was assessed for.

    Raises:
        StudyError: it names the finding.
    """
    for place, finding in enumerate(findings):
        if all(np.isnan(site.records.labels_NK[:, place]).all() for site in sites):
            raise StudyError(
                f"[task] {finding!r}: no image of any hospital has a label for it. Fill in the tables' column, or "
                "remove the finding."
            )
