"""As which class the units of one class were called: a row of a study's confusion matrix."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared.estimates import Number
from shared.released_flow import SUPPRESSED, Count


@dataclass(frozen=True, slots=True, kw_only=True)
class CalledAs:
    """Units of one class by the class that scored highest, in the study's order; None where a count is withheld."""

    units: tuple[Count, ...]

    @property
    def whole(self) -> bool:
        """True where no count is withheld."""
        return None not in self.units


KEY = "called_as"


def calls_to_numbers(row: CalledAs | None) -> dict[str, Number]:
    """Write a row as numbers of a Flower MetricRecord; a withheld count is SUPPRESSED, and no row is no number."""
    return {} if row is None else {KEY: [SUPPRESSED if count is None else count for count in row.units]}


def calls_from_numbers(numbers: Mapping[str, Number], *, units: int) -> CalledAs | None:
    """Read what `calls_to_numbers` wrote, of a class that has so many units.

    Raises:
        TypeError, ValueError: a number is no count, or the row holds more units than its class.
    """
    if KEY not in numbers:
        return None
    values = numbers[KEY]
    if not isinstance(values, list) or not all(type(value) is int and value >= SUPPRESSED for value in values):
        raise ValueError("calls are whole numbers of at least 0, or withheld")
    row = CalledAs(units=tuple(None if value == SUPPRESSED else int(value) for value in values))
    if sum(count or 0 for count in row.units) > units:
        raise ValueError("more units of a class were called than it has")
    return row
