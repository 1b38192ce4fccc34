"""The in-process grid keeps Flower's contract, and the few non-public names that it uses are there and behave."""

import inspect
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from shared.wire import arrays_from_record, record_of
from simulations.in_process_grid import InProcessGrid


def echo(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Answer with what came."""
    yield from frames


def content(word: str = "hello") -> RecordDict:
    return RecordDict({"config": ConfigRecord({"word": word}), "arrays": record_of({"w": np.arange(3.0, dtype="f4")})})


@pytest.fixture
def grid() -> InProcessGrid:
    return InProcessGrid({7: echo, 5: echo}, run_id=42)


def test_flower_is_the_version_that_this_was_written_for() -> None:
    """Another version may have renamed what is used here: read simulations/in_process_grid.py, then change this."""
    assert version("flwr").startswith("1.41.")


def test_it_is_a_grid_of_flowers() -> None:
    """Every abstract method is there, with Flower's own parameters, and none that Flower does not have."""
    assert issubclass(InProcessGrid, Grid)
    assert InProcessGrid.__abstractmethods__ == frozenset()
    for name in Grid.__abstractmethods__ - {"run"}:
        theirs, ours = (inspect.signature(getattr(kind, name)).parameters for kind in (Grid, InProcessGrid))
        assert list(theirs) == list(ours), name
        assert [one.kind for one in theirs.values()] == [one.kind for one in ours.values()], name
    public = {name for name in vars(InProcessGrid) if not name.startswith("_")}
    assert public <= set(dir(Grid))


def test_the_non_public_names_behave() -> None:
    """An empty Run has the given id; a message takes its run and source from TaskIdentity; its id can be set."""
    assert Run.create_empty(9).run_id == 9
    InProcessGrid({}, run_id=42)
    assert (TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id) == (42, 1, 1)
    message = Message(content(), 7, "train")
    assert (message.metadata.run_id, message.metadata.src_node_id, message.metadata.message_id) == (42, 1, "")
    message.metadata.__dict__["_message_id"] = "an id"
    assert message.metadata.message_id == "an id"
    assert Message(content(), reply_to=message).metadata.reply_to_message_id == "an id"


def test_its_run_can_be_set(grid: InProcessGrid) -> None:
    """A grid plays the run that it was made for, or the one it is given."""
    assert grid.run.run_id == 42
    other = Run.create_empty(1)
    grid.set_run(other)
    assert grid.run is other


def test_it_names_its_nodes(grid: InProcessGrid) -> None:
    """In the order in which they were given; also as Flower's node descriptions."""
    assert list(grid.get_node_ids()) == [7, 5]
    assert [node.node_id for node in grid.get_nodes()] == [7, 5]


def test_a_reply_comes_from_the_node_that_was_asked(grid: InProcessGrid) -> None:
    """Ids, type, group and content of a reply are those of Flower's own grids."""
    sent = grid.create_message(content(), "train", 5, "3", ttl=60.0)
    assert (sent.metadata.ttl, sent.metadata.dst_node_id, sent.metadata.group_id) == (60.0, 5, "3")
    (message_id,) = grid.push_messages([sent])
    (reply,) = grid.pull_messages([message_id])
    told = reply.metadata
    assert (told.src_node_id, told.dst_node_id, told.reply_to_message_id) == (5, 1, message_id)
    assert (told.message_type, told.group_id, told.run_id) == ("train", "3", 42)
    assert reply.content == sent.content


def test_each_message_is_answered_once(grid: InProcessGrid) -> None:
    """An id that was pulled, or never pushed, has no reply."""
    ids = list(grid.push_messages([grid.create_message(content(), "train", node, "") for node in (7, 5)]))
    assert len(set(ids)) == 2
    assert len(list(grid.pull_messages(ids))) == 2
    assert list(grid.pull_messages([*ids, "never"])) == []


def test_a_site_works_only_when_its_reply_is_pulled(grid: InProcessGrid) -> None:
    """One site works at a time, in the order of pulling; nothing is computed ahead."""
    worked: list[int] = []

    def working(node: int) -> Any:
        def handle(frames: Iterable[bytes]) -> Iterator[bytes]:
            worked.append(node)
            yield from frames

        return handle

    busy = InProcessGrid({node: working(node) for node in (1, 2, 3)})
    messages = [busy.create_message(content(), "train", node, "") for node in (3, 1, 2)]
    replies = iter(busy.send_and_receive(messages, timeout=5))
    assert worked == []
    next(replies)
    assert worked == [3]
    assert [reply.metadata.src_node_id for reply in replies] == [1, 2]


def test_neither_side_can_change_what_the_other_has(grid: InProcessGrid) -> None:
    """Arrays cross as immutable bytes: what a site or the server does to its copy, the other does not see."""
    sent = content()
    message = grid.create_message(sent, "train", 7, "")
    (reply,) = grid.send_and_receive([message])
    (received,) = reply.content.array_records["arrays"].values()
    assert received is not next(iter(sent.array_records["arrays"].values()))
    assert isinstance(received.data, bytes)
    reply.content["arrays"] = ArrayRecord({})
    reply.content.config_records["config"]["word"] = "changed"
    assert sent.config_records["config"]["word"] == "hello"
    assert list(arrays_from_record(sent.array_records["arrays"])) == ["w"]
