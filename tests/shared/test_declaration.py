"""Tests of shared/declaration.py: what a person wrote becomes a frozen value, or a message that helps."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from shared.declaration import Declaration, load_toml, parse, read_toml, toml_value
from shared.errors import SiteError, StudyError


class Step(Declaration):
    """An entry of a list, with a key that Python could not spell."""

    round: int
    start: Literal["stem", "layer4"] = Field(alias="from")


class Train(Declaration):
    """A section."""

    epochs: int
    learning_rate: float = 0.5
    window: Literal["dicom", "percentile"] | tuple[float, float] = "dicom"
    steps: tuple[Step, ...] = ()
    best: Step | None = None

    @model_validator(mode="after")
    def _some(self):
        if self.epochs == 0:
            raise ValueError("nothing would be trained. Ask for one epoch or more.")
        return self


class Plan(Declaration):
    """A whole file."""

    title: str
    train: Train


def faults(**train) -> list[str]:
    """Read a plan that is wrong in its section [train], and give the message's lines."""
    with pytest.raises(StudyError) as caught:
        parse({"title": "t", "train": {"epochs": 1} | train}, Plan, where="plan.toml", error=StudyError)
    return str(caught.value).splitlines()


def test_a_whole_file_becomes_a_frozen_value(tmp_path):
    """Sections, defaults and aliases are read, and nothing can be changed afterwards."""
    path = tmp_path / "plan.toml"
    path.write_text('title = "t"\n[train]\nepochs = 3\nbest = {round = 2, from = "stem"}\n', encoding="utf-8")
    plan = read_toml(path, Plan, error=StudyError)
    assert (plan.title, plan.train.epochs, plan.train.learning_rate) == ("t", 3, 0.5)
    assert plan.train.best.start == "stem"
    with pytest.raises(ValidationError):
        plan.title = "other"


@pytest.mark.parametrize(
    ("train", "line"),
    [
        ({"epoch": 1}, "plan.toml [train] epoch: there is no such key. Did you mean 'epochs'?"),
        ({"learning_rat": 1.0}, "plan.toml [train] learning_rat: there is no such key. Did you mean 'learning_rate'?"),
        (
            {"zzz": 1},
            "plan.toml [train] zzz: there is no such key. Known here: epochs, learning_rate, window, steps, best.",
        ),
        (
            {"best": {"round": 1, "from": "stem", "form": 1}},
            "plan.toml [train] best.form: there is no such key. Did you mean 'from'?",
        ),
        (
            {"steps": ({"rond": 1, "round": 1, "from": "stem"},)},
            "plan.toml [train] steps.0.rond: there is no such key. Did you mean 'round'?",
        ),
        ({"epochs": "three"}, "plan.toml [train] epochs: Input should be a valid integer; found 'three'."),
        ({"epochs": 0}, "plan.toml [train]: nothing would be trained. Ask for one epoch or more."),
        ({"learning_rate": float("nan")}, "plan.toml [train] learning_rate: Input should be a finite number;"),
        ({"steps": 3}, "plan.toml [train] steps: needs a list, in square brackets; found 3."),
        ({"best": 3}, "plan.toml [train] best: needs a section, with keys of its own; found 3."),
        ({"window": "dicm"}, "plan.toml [train] window: Input should be 'dicom' or 'percentile'; found 'dicm'."),
    ],
)
def test_a_fault_is_named_by_section_and_key(train, line):
    """The message says where, what was found and what to do; the nearest known key is named in every depth."""
    assert faults(**train)[0].startswith(line)


def test_a_key_has_one_spelling():
    """Where a key has an alias, the field's own name is unknown."""
    assert any(
        line.startswith("plan.toml [train] best.start: there is no such key.")
        for line in faults(best={"round": 1, "start": "stem"})
    )


def test_an_unknown_section_names_the_nearest_one():
    """A misspelt section is a fault of the file, and so is one that is missing."""
    with pytest.raises(StudyError) as caught:
        parse({"title": "t", "trian": {}}, Plan, where="plan.toml", error=StudyError)
    assert str(caught.value).splitlines() == [
        "plan.toml [train]: is required and missing. Add it.",
        "plan.toml [trian]: there is no such key. Did you mean 'train'?",
    ]


def test_all_faults_are_named_at_once():
    """One reading shows everything that is to be corrected."""
    assert len(faults(epochs="x", learning_rate="y", zzz=1)) == 3


def test_what_is_no_table_at_all_is_refused():
    """A declaration is a table; anything else is named as such."""
    with pytest.raises(SiteError, match=r"site\.toml as a whole: needs a section"):
        parse([], Plan, where="site.toml", error=SiteError)


def test_a_number_is_not_read_from_text_or_truth():
    """Types are strict: "1" and true are no numbers, and a whole number will do where any number may stand."""
    assert faults(epochs=True)
    assert faults(learning_rate="1")
    assert parse(
        {"title": "t", "train": {"epochs": 1, "learning_rate": 1}}, Plan, where="p", error=StudyError
    ).train == Train(epochs=1, learning_rate=1.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "there is no such file"),
        (b"title = \n", r"not valid TOML: .*line 1, column"),
        (b'title = "\xff"', "not UTF-8 at byte 9"),
        ("folder", "is a folder"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, content, says):
    """Missing, broken, wrongly encoded or a folder: each has its own sentence, and the caller's error."""
    path = tmp_path / "plan.toml"
    if content == "folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(SiteError, match=says):
        load_toml(path, error=SiteError)


def test_a_file_without_permission_says_so(tmp_path, monkeypatch):
    """A file that this user may not read is a fault that the user can mend."""

    def refuse(*_args, **_kwargs):
        raise PermissionError

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(StudyError, match="may not read"):
        load_toml(tmp_path / "plan.toml", error=StudyError)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ('"a b"', "a b"),
        ("[1, 2]", [1, 2]),
        ("fedprox", "fedprox"),
        ("a b", "a b"),
    ],
)
def test_a_bare_word_is_a_string(text, value):
    """What TOML reads as a value is that value; everything else stands for itself."""
    assert toml_value(text) == value
