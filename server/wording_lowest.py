"""The lowest figures of a page in words, for its summary: so that none is lower anywhere than the summary says."""

from itertools import groupby

from server import wording
from server.lowest import Figure, lowest
from server.results import StudyResult


def lowest_lines(result: StudyResult) -> list[tuple[str, str]]:
    """Give each measure, and a sentence with its lowest figure under each kind of model."""
    several = len(result.study.findings) > 1
    return [
        (wording.measure(measure), "; ".join(figure(one, several=several) for one in ones) + ".")
        for measure, ones in groupby(lowest(result), key=lambda one: one.measure)
    ]


def figure(one: Figure, *, several: bool) -> str:
    """Write one figure: how its model was trained, the value, where, of whom, and whether few cases are behind it."""
    value = wording.area(one.value) if one.measure == "auc" else wording.percent(one.value)
    place = f"at {one.site}" if one.site else "over all sites"
    model = "" if one.model is None else f"{one.model}: "
    details = [one.group, one.finding if several else None, "too few cases to conclude from" if one.few else None]
    named = ", ".join(detail for detail in details if detail)
    return f"{model}{value} {place}{f' ({named})' if named else ''}"
