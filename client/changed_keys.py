"""Recognises keys that a spreadsheet has changed, so that their rows are refused in words that say it."""

import re
from collections.abc import Iterable

from client.patient_flow import RowReason

_SCIENTIFIC = re.compile(r"[+-]?\d+(?:[.,]\d+)?e[+-]?\d+", re.IGNORECASE)
_DECIMAL = re.compile(r"(.*\d)[.,]0+")
_GROUPED = re.compile(r"\d{1,3}(?:[.,'  ]\d{3})+")
_FORMULA = re.compile(r"=\"(.*)\"|'(.*)|=(.*)")
_DIGITS_KEPT = 15
"""Digits of a number that a spreadsheet keeps; it writes zeros for the rest."""


class ChangedKeys:
    """Compares keys of the table that no image has with those that images have."""

    def __init__(self, of_images: Iterable[str | None]) -> None:
        known = {key for key in of_images if key}
        self._known = known
        self._without_zeros = {_plain(key) for key in known}
        self._beginnings = {(len(key), key[:_DIGITS_KEPT]) for key in known if key.isdigit()}

    def reason(self, key: str) -> RowReason | None:
        """Say what was done to a key that no image has; None where it is just another.

        Scientific notation is always a spreadsheet's. Else the key that it was must be an image's.
        """
        if _SCIENTIFIC.fullmatch(key):
            return RowReason.KEY_IN_SCIENTIFIC_NOTATION
        if (formula := _FORMULA.fullmatch(key)) and self._is_near(
            next(part for part in formula.groups() if part is not None)
        ):
            return RowReason.KEY_AS_FORMULA
        if (decimal := _DECIMAL.fullmatch(key)) and self._is_near(decimal[1]):
            return RowReason.KEY_WITH_DECIMALS
        if _GROUPED.fullmatch(key) and self._is_near(re.sub(r"\D", "", key)):
            return RowReason.KEY_WITH_DECIMALS
        if self._is_near(key):
            return RowReason.KEY_WITHOUT_ZEROS
        if len(key) > _DIGITS_KEPT and key.isdigit() and not key[_DIGITS_KEPT:].strip("0"):
            rounded = (len(key), key[:_DIGITS_KEPT]) in self._beginnings
            return RowReason.KEY_ROUNDED if rounded else None
        return None

    def _is_near(self, key: str) -> bool:
        """Whether an image has the key, with the same number of leading zeros or another."""
        return key in self._known or _plain(key) in self._without_zeros


def _plain(key: str) -> str:
    return key.lstrip("0") or key[:1]
