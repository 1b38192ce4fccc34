"""Text from outside shows all that it holds, or is refused, or is shown without what does not print."""

import pytest

from shared.errors import StudyError
from shared.invitation import Invitation
from shared.messages import WIRE_VERSION
from shared.plain_text import check_json, is_plain, shown
from shared.protocol import StudyProtocol, parse

HIDING = [
    "\x1b[2J",
    "\x00",
    "\x07",
    "\r",
    "\t",
    "\x7f",
    "\x9b31m",
    "\u202e",
    "\u2066",
    "\u200b",
    "\u2028",
    "\ud800",
    "\ue000",
]


@pytest.mark.parametrize("character", HIDING)
def test_what_does_not_print_does_not_pass(character: str) -> None:
    """Escapes, controls of both kinds, what turns text round, what is invisible, and what is no character."""
    text = f"Chest{character} films"
    assert not is_plain(text)
    assert character[0] not in shown(text)
    assert shown(text).startswith("Chest")


@pytest.mark.parametrize("text", ["Röntgen-Thorax, 2. Serie", "胸部X線", "ε = 1\n“quoted”", "5\u00a0mm", ""])
def test_what_prints_passes(text: str) -> None:
    """Letters of any script, punctuation, line breaks, and spaces that do not break."""
    assert is_plain(text)
    assert shown(text) == text


@pytest.mark.parametrize("character", HIDING[:-2])
def test_a_study_and_an_invitation_say_no_more_than_they_show(character: str) -> None:
    """An intended use that an approver would see otherwise than it stands there is refused, as is such a name."""
    study = {"name": "Tiny", "intended_use": f"Research{character} only."}
    with pytest.raises(StudyError, match="does not print"):
        parse(
            {"study": study, "task": {"findings": ["a"]}, "federation": {"rounds": 1}},
            StudyProtocol,
            where="study",
            error=StudyError,
        )
    digests = dict.fromkeys(("digest", "initial", "bundle", "ca", "signing"), "a" * 64)
    named = {"site": "north", "address": "a:1", "study": "Tiny", "weights": "", "encoding": WIRE_VERSION}
    with pytest.raises(ValueError, match="coordinator"):
        Invitation(coordinator=f"Office{character}", **named, **digests)


def test_results_of_many_sites_are_taken_in() -> None:
    """A large, honest document of usual depth passes."""
    site = b'{"north": {"test": {"opacity": {"auc": {"value": 0.91, "ties": [0.9, 0.92]}}}}}'
    check_json(b"[" + b",".join([site] * 1000) + b"]")
