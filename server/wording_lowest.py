"""The lowest figures of a page in words, for its summary: so that none is lower anywhere than the summary says."""

from itertools import groupby

from server import wording
from server.lowest import Figure, Whose, lowest
from server.results import StudyResult


def lowest_lines(result: StudyResult) -> list[tuple[str, str]]:
    """Give each measure, and a sentence with its lowest figure under each kind of model."""
    several = len(result.study.findings) > 1
    return [
        (wording.measure(measure), "; ".join(figure(one, several=several) for one in ones) + ".")
        for measure, ones in groupby(lowest(result), key=lambda one: one.measure)
    ]


def figure(one: Figure, *, several: bool) -> str:
    """Write one figure, where it is, under which model, and whether too few cases are behind it."""
    value = wording.area(one.value) if one.measure == "auc" else wording.percent(one.value)
    place = f"at {one.site}" if one.site else "over all sites"
    group = f" ({one.group})" if one.group else ""
    finding = f" for {one.finding}" if several else ""
    model = f" under {one.model}" if one.whose is not Whose.STUDY else ""
    few = ", with too few cases to conclude from" if one.few else ""
    return f"{value} {place}{group}{finding}{model}{few}"
