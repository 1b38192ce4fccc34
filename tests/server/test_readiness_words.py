"""Each reason for which a site cannot take part has its own next step."""

from server.admission import Reason
from server.readiness_words import TOO_FEW, what_to_do
from shared.refusal_codes import Refusal


def test_an_unapproved_study_is_not_sent_to_the_images() -> None:
    """It needs an approval, and neither `site check` nor another `min_sites`."""
    said = what_to_do({"north": Refusal.UNKNOWN_PROTOCOL, "south": Refusal.UNKNOWN_PROTOCOL})
    assert said.startswith("north, south: has not approved this very study")
    assert "site approve" in said
    assert "site check" not in said
    assert "min_sites" not in said


def test_each_site_is_told_by_its_own_reason() -> None:
    """Silence, too few patients and a code without a step of its own stand side by side."""
    said = what_to_do({"a": Reason.NO_REPLY, "b": TOO_FEW, "c": Refusal.INTERNAL})
    assert "a: is not heard" in said
    assert "b: has too few training patients: have it run `polyclinic site check`" in said
    assert "c: says internal" in said


def test_nobody_missing_says_nothing() -> None:
    """There is no step without a reason."""
    assert what_to_do({}) == ""
