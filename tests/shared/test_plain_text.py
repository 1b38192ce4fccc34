"""Text from outside shows all that it holds, or is refused, or is shown without what does not print."""

import re
import sys
import unicodedata

import pytest

from shared.errors import StudyError
from shared.invitation import Invitation
from shared.messages import WIRE_VERSION
from shared.plain_text import INSTEAD, check_json, is_plain, shown
from shared.protocol import StudyProtocol, parse

HIDING = [
    "\u3164",
    "\u115f",
    "\u1160",
    "\uffa0",
    "\u2800",
    "\u034f",
    "\ufe0f",
    "\u180b",
    "\u180e",
    "\u180f",
    "\u17b4",
    "\u00ad",
    "\ufeff",
    "\ufff8",
    "\U000e0041",
    "\U000e0100",
    "\U000e01ef",
    "\U0001d159",
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


ORDINARY = [
    "Röntgen-Thorax, 2. Serie",
    "胸部X線",
    "흉부 X선",
    "ε = 1\n“quoted”",
    "5\u00a0mm",
    "",
    "صُورَةُ الصَّدْرِ",
    "छाती का एक्स-रे",
    "เอกซเรย์ทรวงอก น้ำท่วมปอด",
    "חָזֶה",
    "ទ្រូង",
    "ရင်ဘတ်",
    "བྲང་ཁོག",
    "phổi trái",
    "lồng ngực",  # Vietnamese, decomposed: two marks on a letter
    "🫁 lungs 👍🏽",
]


@pytest.mark.parametrize("text", ORDINARY)
def test_what_prints_passes(text: str) -> None:
    """Letters of any script, punctuation, line breaks, and spaces that do not break."""
    assert is_plain(text)
    assert shown(text) == text


@pytest.mark.parametrize("text", ORDINARY)
def test_what_prints_passes_however_its_letters_are_composed(text: str) -> None:
    """Decomposed, a letter of any of these languages has no more marks than one may."""
    assert is_plain(unicodedata.normalize("NFD", text))


def test_a_heap_of_marks_is_cut() -> None:
    """Marks without end cover the lines above and below; four on one letter are shown, and the rest replaced."""
    marks = "".join(map(chr, range(0x0300, 0x0320)))
    text = f"Che{marks}st film\u20dd\u0301s"
    assert not is_plain(text)
    assert shown(text) == f"Che{marks[:4]}{INSTEAD * 28}st film\u20dd\u0301s"


def test_no_filler_joiner_selector_or_tag_prints() -> None:
    """Whatever Unicode calls by one of these names shows nothing."""
    words = re.compile(
        "HANGUL.*FILLER|SMALL SCRIPT FILLER|VARIATION SELECTOR|^TAG |[A-Z] JOINER|PATTERN BLANK|INVISIBLE"
    )
    named = {chr(code): unicodedata.name(chr(code), "") for code in range(sys.maxunicode + 1)}
    hiding = {one: name for one, name in named.items() if words.search(name)}
    assert len(hiding) > 350
    assert not {name for one, name in hiding.items() if is_plain(one)}


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


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ('{"a": "\u009b2J", "a": 1}', "one key two values"),
        ('{"a": 1, "\\u0061": 1}', "one key two values"),
        ('[{"b": {"a": "x", "a": "x"}}]', "one key two values"),
        ('{"a": 1e999}', "too large to reckon with"),
        ('{"a": [-1e309]}', "too large to reckon with"),
        ('{"a": ' + "9" * 400 + "}", "too large to reckon with"),
        ('{"a": -' + "9" * 5000 + "}", "too large to reckon with"),
        ('{"a": 1,\r"b": 2}', "does not print"),
        ('{"a": "\u202e"}', "does not print"),
        ('{"a": "\\u202e"}', "does not print"),
        ('{"\\u009b": 1}', "does not print"),
        ("[" * 100_000 + "]" * 100_000, "nested too deep"),
        ("[" * 40 + "]" * 40, "nested too deep"),
    ],
    ids=lambda text: text[:24].encode("unicode_escape").decode(),
)
def test_a_document_that_one_can_read_in_two_ways_is_refused(document: str, says: str) -> None:
    """Every text in the file is looked at: of two equal keys too, and between the texts nothing moves the cursor."""
    with pytest.raises(ValueError, match=says):
        check_json(document.encode())


def test_a_checked_document_is_what_it_holds() -> None:
    """Whoever checks it needs no second reader, who may read it otherwise; tabs and CRLF are harmless."""
    found = check_json('{"a": [1, -2.5, 1e300, true, null],\r\n\t"b": {"a": "Röntgen"}}'.encode())
    assert found == {"a": [1, -2.5, 1e300, True, None], "b": {"a": "Röntgen"}}
