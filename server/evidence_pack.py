"""The evidence pack: a run's card, facts, records and digests as one zip file, the same bytes for the same run."""

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, ZipInfo

import numpy as np
import numpy.typing as npt

from server import guidance
from server.evidence import RunEvidence, gather
from server.model_card import render
from server.run_folder import RunFolder
from shared.storage import atomic_file

DIGESTS = "digests.sha256"
"""The list of all other files, in the form that `sha256sum -c` takes."""

_BEGINNING = (1980, 1, 1, 0, 0, 0)
"""The time that every file in the pack has: when it was packed is no part of the evidence."""


def write_pack(run: RunFolder, out: Path) -> str:
    """Write a finished run's evidence pack, and give the SHA-256 of its list of digests.

    Raises:
        StorageError: the run is not finished, its parts do not belong together, or the pack cannot be written.
        WeightsError: the model's file was changed.
    """
    evidence = gather(run)
    files = {
        "model_card.html": render(evidence).encode(),
        "guidance.csv": guidance.TABLE.read_bytes(),
        "evidence.json": (json.dumps(facts(evidence), indent=2, ensure_ascii=False) + "\n").encode(),
        "phantom.csv": _table(evidence.phantom_HW),
        "phantom_prepared.csv": _table(evidence.phantom_prepared_HW),
        "protocol.toml": run.protocol.read_bytes(),
        "report.html": run.report.read_bytes(),
        "results.json": run.results.read_bytes(),
    }
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items())]
    digests = "".join(lines).encode()
    _write(out, files | {DIGESTS: digests})
    return hashlib.sha256(digests).hexdigest()


def facts(evidence: RunEvidence) -> dict[str, Any]:
    """Lay out what a program may want of the card; counts only, and a suppressed one is null."""
    result = evidence.result
    return {
        "study": {
            "name": result.study.name,
            "version": result.study.version,
            "digest": result.study.digest,
            "intended_use": result.study.intended_use,
        },
        "model": {
            "file_sha256": evidence.model_sha256,
            "arrays_sha256": evidence.facts.arrays_sha256,
            "round": evidence.facts.round,
            "thresholds": dict(evidence.facts.thresholds),
            "started_from": dataclasses.asdict(result.weights),
        },
        "preprocessing": {
            "sha256": evidence.contract.digest(),
            "contract": json.loads(evidence.contract.canonical()),
            "phantom_prepared_sha256": hashlib.sha256(evidence.phantom_prepared_HW.tobytes()).hexdigest(),
        },
        "data": {site: dataclasses.asdict(flow) for site, flow in sorted(result.patient_flow.items())},
        "approvals": _plain(evidence.approvals),
        "privacy": _plain(result.privacy),
        "audit_chains": _plain(evidence.chains),
        "environment": dataclasses.asdict(result.environment),
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: dataclasses.asdict(value) for name, value in sorted(values.items())}


def _table(values_HW: npt.NDArray[Any]) -> bytes:
    """Write an image as a table of whole numbers, a line a row."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(np.asarray(values_HW).astype(np.int64).tolist())
    return text.getvalue().encode()


def _write(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the zip: sorted, not compressed (compressors differ between versions), without times and owners."""
    with atomic_file(path) as part, ZipFile(part, "w", ZIP_STORED) as pack:
        for name, content in sorted(files.items()):
            entry = ZipInfo(name, _BEGINNING)
            entry.create_system = 3  # the same on every system: Unix, and a file that all may read
            entry.external_attr = 0o644 << 16
            pack.writestr(entry, content)
