"""A study's patient flow leaves as it left first, and studies that tell more together say so before an approval."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.bootstrap import prepare
from client.egress import EgressGuard
from client.released import Released
from client.studies_together import told_together
from shared.audit import AuditLog
from shared.errors import StorageError
from shared.messages import Answer, Approval, Header, Kind, ReadyReply, ReadyTask, decode_answer
from shared.released_flow import ClassCounts, ReleasedFlow, SplitCounts
from shared.wire import from_frames

KEY = bytes(32)


def flow(test: int) -> ReleasedFlow:
    """Give a flow with so many test patients, half of them with the finding."""
    half = test // 2
    own = ClassCounts(
        positive_patients=test - half, negative_patients=half, positive_exams=test - half, negative_exams=half
    )
    return ReleasedFlow(
        found=200, excluded={"empty": 0}, splits={"test": SplitCounts(patients=test, exams=test, classes=(own,))}
    )


def answered(guard: EgressGuard, exact: ReleasedFlow) -> ReleasedFlow:
    """Ask how ready a site is, and read what leaves."""
    header = Header(kind=Kind.READY, protocol_digest="d", run_id="r", round=0, site="north")
    reply = ReadyReply(flow=exact, package="0.1.0", approval=Approval.APPROVED)
    answer: Answer = decode_answer(from_frames(guard.release(ReadyTask(header=header), reply)))
    assert isinstance(answer.reply, ReadyReply)
    return answer.reply.flow


def guard(folder: Path, **more: Any) -> EgressGuard:
    """Give the guard of a site that has been started anew."""
    return EgressGuard(
        min_cell=10, audit=AuditLog(folder / "audit.jsonl"), exclusive=False, wire="fp32",
        released=Released(folder=folder / "released", key=KEY), **more,
    )  # fmt: skip


def test_a_withdrawn_patients_side_and_class_do_not_follow_from_two_counts(tmp_path: Path) -> None:
    """Asked before and after, and by an agent that was started again: the second flow is the first."""
    first = answered(guard(tmp_path), flow(test=41))
    assert first == flow(test=41)
    assert answered(guard(tmp_path), flow(test=40)) == first


def test_a_first_flow_is_on_the_disk_before_it_leaves(tmp_path: Path) -> None:
    """What cannot be remembered does not leave; nor does another flow where the first cannot be read."""
    (tmp_path / "released").write_text("no folder")
    with pytest.raises(StorageError):
        answered(guard(tmp_path), flow(test=41))
    (tmp_path / "released").unlink()
    answered(guard(tmp_path), flow(test=41))
    (tmp_path / "released" / "flow.json").write_text("{")
    with pytest.raises(StorageError, match="cannot be read as it was written"):
        answered(guard(tmp_path), flow(test=40))


def test_who_was_counted_first_takes_part_and_nobody_else(tmp_path: Path) -> None:
    """Before a flow has left everybody does, and where an earlier version kept no list; no patient is in the file."""
    first = Released(folder=tmp_path / "released", key=KEY, patients=frozenset({5, 6}))
    assert first.takes_part()(7)
    first.flow(flow(test=41))
    later = Released(folder=tmp_path / "released", key=KEY, patients=frozenset({6, 7}))
    later.flow(flow(test=45))
    assert [later.takes_part()(patient) for patient in (5, 6, 7)] == [True, True, False]
    kept = json.loads((tmp_path / "released" / "cohort.json").read_text())
    assert kept == sorted(map(first.token, (5, 6)))
    (tmp_path / "released" / "cohort.json").unlink()
    later.flow(flow(test=45))
    assert later.takes_part()(7)


def test_a_file_with_another_id_takes_no_patient_out_of_a_study(hospital: Any, tiny: Any, tmp_path: Path) -> None:
    """Later files name counted patients' studies, with IDs first in order: all take part as before; the list is old."""
    for n in range(8):
        hospital.image(f"{n}", patient=f"PAT{n}", exam=str(n))
    hospital.labels("path,opacity", *(f"{n},{n % 2}" for n in range(8)))
    site = hospital.site(join="path", opacity="opacity")
    memory = Released(folder=tmp_path / "released", key=KEY)

    def taking_part() -> dict[int, str]:
        found = prepare(
            site, tiny.protocol(), progress=lambda *_: None, withdrawn=frozenset(), takes_part=memory.takes_part()
        )
        return dict(zip(found.records.patients_N.tolist(), found.records.split_N.tolist(), strict=True))

    first = taking_part()
    replace(memory, patients=frozenset(first)).flow(flow(test=41))
    for n in range(5):
        hospital.image(f"new{n}", patient=f"!{n}", exam=str(n))
    assert taking_part() == first
    assert len(first) == 8


def test_a_list_that_cannot_be_read_lets_nobody_in(tmp_path: Path) -> None:
    """Neither does it leave everybody out in silence."""
    (tmp_path / "released").mkdir()
    (tmp_path / "released" / "cohort.json").write_text("[5, 6")
    with pytest.raises(StorageError, match="Restore it"):
        Released(folder=tmp_path / "released", key=KEY).takes_part()


def test_a_hospital_can_round_its_flow(tmp_path: Path) -> None:
    """All counts leave as multiples."""
    left = answered(guard(tmp_path, count_rounding=25), flow(test=41))
    assert (left.found, left.splits["test"].patients) == (200, 50)
    assert left.splits["test"].classes[0].all == (25, 25, 25, 25)


def test_what_two_studies_tell_together_is_said(tiny: Any) -> None:
    """Where they count other patients of the same hospital: by what they differ, and what rounds."""
    protocol = tiny.protocol()
    films = protocol.model_copy(
        update={
            "study": protocol.study.model_copy(update={"name": "Films"}),
            "images": protocol.images.model_copy(update={"modality": "DX"}),
        }
    )
    (line,) = told_together(protocol, [films, protocol], min_cell=10)
    assert line.startswith("- This study and “Films” differ by modality and the split of patients; counts can be")
    assert "fewer than 10 patients" in line
    assert "count_rounding" in line
    later = protocol.model_copy(update={"study": protocol.study.model_copy(update={"version": "2"})})
    (line,) = told_together(protocol, [later], min_cell=10)
    assert "by rules in which no difference is known; counts can be subtracted" in line
    everything = later.model_copy(update={"images": protocol.images.model_copy(update={"objects": "all"})})
    (line,) = told_together(protocol, [everything], min_cell=10)
    assert line.startswith("- This study and “Tiny” differ by the kinds of images; counts can be subtracted")
    assert list(told_together(protocol, [protocol], min_cell=10)) == []
