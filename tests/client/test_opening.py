"""Only what the approved coordinator signed, in this version and form, becomes a task."""

from typing import Any

import numpy as np
import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict

from client.opening import open_task
from shared.errors import TaskError
from shared.messages import EvaluateTask, Header, Kind, encode_task
from shared.signing import RECORD, Purpose, SigningKey, content_digest
from shared.split import Split
from shared.wire import to_frames

KEY = SigningKey.draw()
HEAD = Header(protocol_digest="d" * 64, run_id="run", round=1, site="north", kind=Kind.EVALUATE)
TASK = EvaluateTask(
    header=HEAD, arrays={"w": np.arange(4, dtype=np.float32)}, split=Split.VALIDATION, thresholds=(0.25,)
)


def sent(key: SigningKey | None = KEY, purpose: Purpose = Purpose.TASK) -> RecordDict:
    content = encode_task(TASK)
    if key is not None:
        key.sign(content, purpose)
    return content


def code(content: RecordDict, coordinator: str = KEY.public) -> str:
    with pytest.raises(TaskError) as fault:
        open_task(to_frames(content), most_bytes=1 << 20, coordinator=coordinator)
    return str(fault.value.code)


def test_a_task_of_the_approved_coordinators_is_opened_with_its_digest() -> None:
    """The digest is the one that the coordinator has: over header, split, thresholds and arrays."""
    content = sent()
    task, request = open_task(to_frames(content), most_bytes=1 << 20, coordinator=KEY.public)
    assert task.header == HEAD
    assert request == content_digest(encode_task(TASK)) == content_digest(content)


def test_nobody_elses_task_is_opened() -> None:
    """Not signed, signed by another key, with a signature that is none, or with one that was made for a reply."""
    assert code(sent(None)) == "not_signed_by_the_coordinator"
    assert code(sent(SigningKey.draw())) == "not_signed_by_the_coordinator"
    assert code(sent(KEY, Purpose.REPLY)) == "not_signed_by_the_coordinator"
    garbled = sent()
    garbled[RECORD] = ConfigRecord({"ed25519": "00" * 64})
    assert code(garbled) == "not_signed_by_the_coordinator"
    assert code(sent(), coordinator="") == "not_signed_by_the_coordinator"


def changed(name: str, value: Any) -> RecordDict:
    content = sent()
    content.config_records["task"][name] = value
    return content


def test_what_was_changed_on_the_way_is_not_opened() -> None:
    """A bit of an array, a threshold, the split, the round, the site, or a record more."""
    content = sent()
    (block,) = content.array_records["arrays"].values()
    block.data = block.data[:-1] + b"\x01"
    more = sent()
    more["more"] = MetricRecord({"x": 1})
    altered = [
        content,
        more,
        changed("thresholds", [0.26]),
        changed("split", "test"),
        changed("round", 2),
        changed("site", "south"),
        changed("detail", "x"),
    ]
    assert {code(one) for one in altered} == {"not_signed_by_the_coordinator"}


def test_version_and_form_are_told_apart_from_the_signature() -> None:
    """Another version is named as such, whoever signed it; what is signed and malformed is malformed."""
    for version in ("2", "4", 3):
        assert code(changed("version", version)) == "other_version"
    content = encode_task(TASK)
    content.config_records["task"]["kind"] = "steal"
    KEY.sign(content, Purpose.TASK)
    assert code(content) == "malformed"
    assert code(RecordDict()) == "malformed"
