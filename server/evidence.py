"""What a finished run can prove of itself: digests, approvals, heads of audit chains, versions, its files."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from server.results import StudyResult
from server.results_json import read
from server.run_folder import RunFolder
from server.run_status import SiteStatus, read_status
from shared.audit import GENESIS, verify
from shared.errors import StorageError
from shared.model_facts import ModelFacts
from shared.preprocessing import Contract, golden_phantom, prepare
from shared.protocol import read_protocol
from shared.saved_model import open_model

PHANTOM_SPACING_MM = (1.0, 1.5)
PHANTOM_WINDOW = (600.0, 700.0)
"""What the phantom's file would say of itself, for contracts that ask (tests/golden)."""

SIMULATED = "simulated"
"""The word for an approval that nobody gave, because the hospital is a folder on the coordinator's own machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """What a site said before round 1: whether a person there approved the study's digest, and its version."""

    word: str
    package: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainHead:
    """The end of an audit chain that was followed from its first line: nothing before it can be changed unseen."""

    lines: int
    head: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvidence:
    """A finished run with all that is checked of it; `chains` are those that lie on this machine, by their names.

    `phantom_prepared` is what the study's contract makes of the golden phantom (H, W), and `model_sha256` is of the
    file, `facts.arrays_sha256` of the arrays in it.
    """

    result: StudyResult
    facts: ModelFacts
    model_sha256: str
    contract: Contract
    phantom_HW: npt.NDArray[np.float32]
    phantom_prepared_HW: npt.NDArray[np.unsignedinteger]
    approvals: Mapping[str, Approval]
    chains: Mapping[str, ChainHead]


def gather(run: RunFolder) -> RunEvidence:
    """Read a finished run, and check that its parts belong together.

    Raises:
        StorageError: the run is not finished, its parts are of different studies, or an audit chain does not hold.
        WeightsError: the model's file was changed.
    """
    missing = [path.name for path in (run.results, run.report, run.model, run.protocol) if not path.exists()]
    if missing:
        raise StorageError(f"{run.path}: {', '.join(missing)} is not there. Name the folder of a finished run.")
    result, facts = read(run.results), open_model(run.model).facts
    if not result.study.digest == facts.protocol.digest() == read_protocol(run.protocol).digest():
        raise StorageError(
            f"{run.path}: its results, its model and its protocol are not of one study. Put the run's own files back."
        )
    contract = facts.contract
    prepared = prepare(golden_phantom(), spacing_mm=PHANTOM_SPACING_MM, window=PHANTOM_WINDOW, contract=contract)
    return RunEvidence(
        result=result,
        facts=facts,
        model_sha256=hashlib.sha256(run.model.read_bytes()).hexdigest(),
        contract=contract,
        phantom_HW=golden_phantom()[..., 0],
        phantom_prepared_HW=prepared[0],
        approvals=_approvals(run, result),
        chains={name: _head(path) for name, path in _chains(run).items()},
    )


def _approvals(run: RunFolder, result: StudyResult) -> dict[str, Approval]:
    """Give what each site said before round 1; a run without a status was simulated."""
    status = read_status(run.status)
    if status is None:
        own = result.environment.versions.get("polyclinic", "")
        return {site: Approval(word=SIMULATED, package=own) for site in result.site_names}
    silent = SiteStatus()
    said = {site: status.sites.get(site, silent) for site in result.site_names}
    return {site: Approval(word=one.approval or "not told", package=one.package) for site, one in said.items()}


def _chains(run: RunFolder) -> dict[str, Path]:
    """Find the audit logs beside a run: the coordinator's own, and of a simulation those of its sites."""
    logs = sorted(run.sites.glob("*/*/audit.jsonl"))
    found = {f"{log.parent.parent.name} ({log.parent.name})": log for log in logs}
    coordinator = run.path.parent.parent / "audit.jsonl"
    return found | ({"coordinator": coordinator} if run.order.exists() and coordinator.exists() else {})


def _head(log: Path) -> ChainHead:
    lines, head = 0, GENESIS
    for entry in verify(log):
        lines, head = entry["line"], entry["hash"]
    return ChainHead(lines=lines, head=head)
