"""What to do about sites that cannot take part in a run, by the reasons that they gave."""

from collections.abc import Mapping

from server.admission import Reason
from shared.refusal_codes import Refusal

TOO_FEW = "fewer training patients than its min_cell"
"""The coordinator's own word where a site's number of training patients is suppressed, or 0."""

_STEPS: Mapping[str, str] = {
    Refusal.UNKNOWN_PROTOCOL: (
        "has not approved this very study (one setting another makes another study): `polyclinic coordinator invite` "
        "it, have it `polyclinic site approve` the invitation and start its agent again, then `run` once more"
    ),
    Reason.NO_REPLY: "is not heard: see `polyclinic coordinator status`, and ask whether its link and agent run",
    Refusal.UNREACHABLE: "has a link and no agent: ask it to start the agent and to look at its log",
    Refusal.PREPARING: "still prepares its images: wait, or set [deadlines] ready_minutes higher, then `resume`",
    Refusal.BUSY: "is at work on other tasks: `resume` later",
    Refusal.OTHER_VERSION: "speaks another version of the encoding: upgrade the older side",
    Reason.NOT_SIGNED: (
        "signed with a key that is not enrolled: `enroll` the file of `polyclinic site keys` again, with `--replace` "
        "if it drew new ones"
    ),
    Refusal.DATA: "could not use its images or labels: have it run `polyclinic site check`",
    Refusal.TOO_FEW_PATIENTS: "has too few training patients: have it run `polyclinic site check`",
    TOO_FEW: "has too few training patients: have it run `polyclinic site check`",
    Refusal.PRIVACY: "has no privacy budget for it: have it run `polyclinic site ledger`",
    Refusal.STORAGE: "has a disk that is full or cannot be written: the same task is asked again on `resume`",
}


def what_to_do(reasons: Mapping[str, str]) -> str:
    """Say for each reason, once, which sites gave it and what the next step is."""
    by_step: dict[str, list[str]] = {}
    for site, reason in reasons.items():
        step = _STEPS.get(reason, f"says {reason}: part 10 of docs/runbook.md tells what that means")
        by_step.setdefault(step, []).append(site)
    return " ".join(f"{', '.join(sites)}: {step}." for step, sites in by_step.items())
