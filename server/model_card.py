"""The model card: one page that says what a study's model is for, what it rests on and where not to use it."""

import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from server import guidance, privacy_words, wording, wording_classes, wording_lowest, wording_shift, wording_warnings
from server.class_matrix import class_matrices
from server.evidence import SIMULATED, Approval, ChainHead, RunEvidence
from server.report import page_environment
from server.report_tables import exclusion_reasons, unassessed
from server.results import StudyResult
from shared.split import Split

_CSS = Path(__file__).with_name("report.css")

_APPROVALS = {
    "approved": "approved by a person there, by the study's digest",
    SIMULATED: "none: simulated on one machine, nobody was asked",
}


def render(evidence: RunEvidence) -> str:
    """Make the page: no script, nothing fetched, every name escaped; equal evidence gives equal bytes."""
    result = evidence.result
    context: dict[str, Any] = {
        "evidence": evidence,
        "result": result,
        "study": result.study,
        "protocol": evidence.facts.protocol,
        "words": wording,
        "privacy": privacy_words,
        "css": Markup(_CSS.read_text(encoding="utf-8")),  # noqa: S704  # our own file
        "warnings": wording_warnings.warnings(result),
        "no_warning": wording_warnings.no_warning(result),
        "matrices": class_matrices(result),
        "classed": wording_classes,
        "unassessed": unassessed,
        "lowest": wording_lowest.lowest_lines(result),
        "images": list(wording_shift.warnings(result)),
        "preprocessing": json.loads(evidence.contract.canonical()),
        "rows": [*result.site_names, None],  # the last is all sites together
        "splits": [str(split) for split in Split],
        "reasons": [reason for reason in exclusion_reasons(result) if _occurred(result, reason)],
        "approval": approval_in_words,
        "chain": chain_in_words,
        "frameworks": _frameworks(),
        "no_claim": guidance.NO_CLAIM,
    }
    return page_environment().get_template("model_card.html.j2").render(context)


def approval_in_words(approval: Approval) -> str:
    """Say on whose word a site took part."""
    return _APPROVALS.get(approval.word, approval.word)


def chain_in_words(chain: ChainHead) -> str:
    """Say how long a chain is that was followed to its end."""
    return f"{chain.lines:,} line{'s' if chain.lines != 1 else ''}, whole"


def _occurred(result: StudyResult, reason: str) -> bool:
    """Tell whether some site left something out for this reason; a suppressed count did not come from nothing."""
    return any(flow.excluded.get(reason, 0) != 0 for flow in result.patient_flow.values())


def _frameworks() -> list[tuple[str, str, list[guidance.Item]]]:
    """Give each framework's name, source and items."""
    items = list(guidance.items())
    return [
        (name, source, [item for item in items if item.framework == name]) for name, source in guidance.SOURCES.items()
    ]
