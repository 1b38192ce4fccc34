"""What the documents list is what there is: keys of study.toml and site.toml, what may leave, exit codes, decisions."""

import dataclasses
import json
import re
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from client.site import SiteConfig
from shared import (
    called_as,
    description,
    errors,
    estimates,
    evidence,
    feature_summary,
    intensity,
    landmarks,
    messages,
    metrics,
    protocol,
    released_flow,
    subgroups,
)

ROW = re.compile(r"^\| `([^`]+)` \| (.+?) \| (.+) \|$", re.MULTILINE)

LEAVES = (
    messages.Answer,
    messages.DeliverReply,
    messages.ReadyReply,
    messages.RefusalReply,
    messages.TrainReply,
    released_flow.ReleasedFlow,
    released_flow.SplitCounts,
    released_flow.ClassCounts,
    evidence.Evidence,
    evidence.Withheld,
    estimates.Coefficient,
    estimates.Estimate,
    estimates.Calibration,
    estimates.ScoreQuality,
    metrics.ScoreHistogram,
    metrics.Confusion,
    called_as.CalledAs,
    feature_summary.FeatureSummary,
    intensity.IntensitySummary,
    landmarks.Landmarks,
    description.CornerTest,
    description.CornerEffect,
    description.MarkTest,
    subgroups.GroupEvidence,
)
"""Everything that a reply is made of."""

JUST_A_BOX = {
    "Evidence.called_as",
    "Answer.reply",
    "ReadyReply.flow",
    "SplitCounts.classes",
    "Evidence.histogram",
    "Evidence.confusion",
    "Evidence.auc",
    "Evidence.quality",
    "Calibration.slope",
    "Calibration.intercept",
    "ScoreQuality.average_precision",
    "ScoreQuality.brier",
    "ScoreQuality.calibration",
    "CornerTest.effects",
    "Evidence.subgroups",
    "GroupEvidence.confusion",
    "GroupEvidence.auc",
}
"""Fields that hold another of these; what is inside is listed."""


def section(text: str, heading: str) -> str:
    """Cut out what stands under one heading, up to the next heading of any level."""
    return re.split(r"^#+ ", text.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def declared_keys(kind: type[BaseModel]) -> dict[str, tuple[str, FieldInfo]]:
    """List `section.key` with its default, as a reader of TOML would write it, in the order of declaration."""
    return {
        f"{name}.{field.alias or key}": (written_default(field), field)
        for name, part in kind.model_fields.items()
        for key, field in section_kind(part.annotation).model_fields.items()
    }


def section_kind(annotation: typing.Any) -> type[BaseModel]:
    """Find the declaration of a section, whether it must be there or may be absent."""
    return next(one for one in (annotation, *typing.get_args(annotation)) if hasattr(one, "model_fields"))


def written_default(field: FieldInfo) -> str:
    """Write a default as TOML; a key that may be left out and then has no value is `absent`."""
    if field.is_required():
        return "required"
    if field.default_factory:
        return "of the machine"
    match field.default:
        case None:
            return "absent"
        case float(number):
            return f"`{number:g}`"
        case Path() as path:
            return f'`"{path}"`'
        case value:
            return f"`{json.dumps(value)}`"


def options(annotation: typing.Any) -> list[str]:
    """List the words among which a key chooses."""
    if typing.get_origin(annotation) is typing.Literal:
        return [json.dumps(word) for word in typing.get_args(annotation)]
    return [word for part in typing.get_args(annotation) for word in options(part)]


@pytest.mark.parametrize(
    ("heading", "kind"),
    [("### Every key of study.toml", protocol.StudyProtocol), ("### Every key of site.toml", SiteConfig)],
)
def test_the_table_of_keys_is_complete_and_true(house, heading, kind):
    """Each key stands there once, in order, with the default that it has and all the words that it may be."""
    rows = ROW.findall(section(house.text("README.md"), heading))
    keys = declared_keys(kind)
    assert [(key, default) for key, default, _ in rows] == [(key, default) for key, (default, _) in keys.items()]
    forgotten = {
        f"{key}: {word}"
        for key, _, meaning in rows
        for word in options(keys[key][1].annotation)
        if f"`{word}`" not in meaning
    }
    assert forgotten == set()


def test_the_table_of_strategies_is_complete_and_true(house):
    """Each strategy stands there with its own settings and their defaults."""
    rows = ROW.findall(section(house.text("README.md"), "### Strategies"))
    settings = {
        name: ", ".join(f"`{key} = {value:g}`" for key, value in own.items()) or "none"
        for name, own in protocol.STRATEGY_SETTINGS.items()
    }
    assert {name: own for name, own, _ in rows} == settings


def test_what_may_leave_is_all_that_a_reply_can_hold(house):
    """Every field of every reply stands in the table, and the table promises nothing that no reply has."""
    fields = {f"{kind.__name__}.{field.name}" for kind in LEAVES for field in dataclasses.fields(kind)} - JUST_A_BOX
    said = re.findall(r"`([A-Z]\w+\.\w+)`", section(house.text("README.md"), "## What may leave a hospital"))
    assert sorted(said) == sorted(fields)


def test_the_replies_are_made_of_what_is_listed_here():
    """A new kind of reply cannot be forgotten in the test above."""
    replies = {kind.__name__ for kind in typing.get_args(messages.Reply)}
    assert replies == {
        *("ReadyReply", "LandmarksReply", "TrainReply", "EvaluateReply"),
        *("DescribeReply", "DeliverReply", "RefusalReply"),
    }
    assert [field.name for field in dataclasses.fields(messages.EvaluateReply)] == ["evidence"]
    assert [field.name for field in dataclasses.fields(description.Description)] == [
        "features",
        "intensity",
        "corners",
        "marks",
    ]


def test_the_table_of_exit_codes_is_complete_and_true(house):
    """Each kind of error stands there with its code and its own sentence."""
    kinds = [kind for kind in errors.PolyclinicError.__subclasses__() if kind.__module__ == errors.__name__]
    expected = {(str(kind.exit_code), f"`{kind.__name__}`", kind.__doc__.splitlines()[0].lower()) for kind in kinds}
    rows = ROW.findall(section(house.text("README.md"), "## Exit codes"))
    assert {(code, name, f"{meaning}.".lower()) for code, name, meaning in rows if int(code) > 2} == expected


def test_the_index_of_decisions_is_complete_and_true(house):
    """Each decision stands there under its number, with its title."""
    pages = [path for path in house.files() if re.match(r"docs/decisions/\d{4}-", path)]
    titles = {page: re.match(r"# (\d{4})\. (.+)\n", house.text(page)).groups() for page in pages}
    rows = re.findall(r"^\| \[(\d{4})\]\((.+)\) \| (.+) \|$", house.text("docs/decisions/README.md"), re.MULTILINE)
    assert [(number, f"docs/decisions/{page}", title) for number, page, title in rows] == [
        (number, page, title) for page, (number, title) in titles.items()
    ]


def test_sections_and_rows_are_found():
    """The reading above is itself tried: a row of three cells, up to the next heading."""
    text = "# A\n\n## B\n\n| k | d | m |\n|---|---|---|\n| `a.b` | `1` | one of `1`, `2` |\n\n### C\n| `d` | e | f |\n"
    assert ROW.findall(section(text, "## B")) == [("a.b", "`1`", "one of `1`, `2`")]
    assert options(typing.Literal["x", "y"] | tuple[float, float]) == ['"x"', '"y"']
