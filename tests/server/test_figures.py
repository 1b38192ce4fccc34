"""The report's figures: true to their numbers, the same bytes for the same facts, and told apart by any eye."""

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import server
from server.figures import SITE_COLOURS, board, site_key, site_marks, write
from server.figures_performance import Estimate, ForestRow, RocCurve, forest, roc
from server.figures_training import Curve, RoundAxis, training_curves

MARKS = site_marks(["a", "b", "c"])
CSS = (Path(server.__file__).parent / "report.css").read_text(encoding="utf-8")


def _row(name: str, value: float, low: float | None, high: float | None, *, ranked: bool = True) -> ForestRow:
    estimate = Estimate(value=value, low=low, high=high)
    return ForestRow(name=name, mark=MARKS["a"], ranked=ranked, estimate=estimate, numbers="numbers", tip=f"tip {name}")


def _forest(*rows: ForestRow, target: float | None = None) -> ET.Element:
    svg = forest(rows, name="f", title="Title", description="Text", target=target, percent=True)
    return ET.fromstring(svg)


def _line(figure: ET.Element, colour: str) -> list[float]:
    """Give the horizontal places of the first straight line of a colour."""
    paths = (path for path in figure.iter("path") if f"stroke: var(--{colour})" in path.get("style", ""))
    first = next(path.get("d", "") for path in paths)
    return [float(place) for place in re.findall(r"[ML] (-?[\d.]+)", first)]


def _themes() -> dict[str, dict[str, str]]:
    light, dark = CSS.split("@media screen", 1)
    return {name: dict(re.findall(r"--([\w-]+): (#\w{6})", part)) for name, part in (("light", light), ("dark", dark))}


def _linear(colour: str) -> np.ndarray:
    parts = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def _contrast(one: str, other: str) -> float:
    """Contrast ratio of WCAG 2.1."""
    light = sorted(float(_linear(colour) @ [0.2126, 0.7152, 0.0722]) + 0.05 for colour in (one, other))
    return light[1] / light[0]


def _lab(linear: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ np.clip(linear, 0.01, 1) / np.array([0.9505, 1, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


# Machado, Oliveira and Fernandes (IEEE TVCG 2009;15:1291), severity 1.
EYES = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_site_colours_are_told_apart_by_every_eye(theme: str, eye: str) -> None:
    """Any two site colours differ by 15 and any two of the first five by 20 (CIE76), 2 being just noticeable."""
    colours = [_lab(EYES[eye] @ _linear(_themes()[theme][f"site-{place}"])) for place in range(SITE_COLOURS)]
    apart = {pair: np.linalg.norm(colours[pair[0]] - colours[pair[1]]) for pair in itertools.combinations(range(8), 2)}
    assert min(apart.values()) > 15
    assert min(distance for pair, distance in apart.items() if max(pair) < 5) > 20


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_stand_out_from_their_paper(theme: str) -> None:
    """Marks have a contrast of 3:1 with the paper and text of 4.5:1 (WCAG 2.1, 1.4.11 and 1.4.3)."""
    colours = _themes()[theme]
    for place in range(SITE_COLOURS):
        assert _contrast(colours[f"site-{place}"], colours["paper"]) >= 3
    for name in ("ink", "muted", "accent", "target", "alarm"):
        assert _contrast(colours[name], colours["paper"]) >= 4.5
    for tint in ("alarm-tint", "care-tint", "tint"):
        assert _contrast(colours["ink"], colours[tint]) >= 4.5


def test_every_site_has_a_mark_of_its_own() -> None:
    """The first eight sites differ in colour, and no two of the first 56 in both colour and shape."""
    marks = list(site_marks([f"site {number:02}" for number in range(56)]).values())
    assert len({mark.colour for mark in marks[:SITE_COLOURS]}) == SITE_COLOURS
    assert len({(mark.colour, mark.shape) for mark in marks}) == 56


def test_the_same_drawing_gives_the_same_bytes_whatever_the_users_settings() -> None:
    """A figure depends on its facts only: not on the hour, nor on the user's matplotlib settings."""
    import matplotlib

    rows = [_row("a", 0.9, 0.8, 0.95)]
    first = forest(rows, name="f", title="t", description="d", target=0.95, percent=True)
    with matplotlib.rc_context({"lines.linewidth": 9.0, "font.size": 30.0}):
        again = forest(rows, name="f", title="t", description="d", target=0.95, percent=True)
        assert matplotlib.rcParams["lines.linewidth"] == 9.0
    assert again == first


def test_figures_have_no_colour_of_their_own() -> None:
    """Every colour is a variable of the page's theme, so that dark and light both work."""
    svg = forest([_row("a", 0.9, 0.8, 0.95)], name="f", title="t", description="d", target=0.95, percent=True)
    used = set(re.findall(r"var\(--([\w-]+)\)", svg))
    assert not re.search(r"#[0-9a-f]{6}", svg)
    assert {"site-0", "ink", "target", "grid"} <= used <= set(_themes()["light"])


def test_a_figure_is_told_to_those_who_hear_it() -> None:
    """A figure has a title and a description, and points at both; decoration is passed over."""
    figure = _forest(_row("a", 0.9, 0.8, 0.95))
    assert (figure[0].tag, figure[0].text, figure[1].text) == ("title", "Title", "Text")
    assert figure.attrib["aria-labelledby"] == figure[0].attrib["id"]
    assert figure.attrib["aria-describedby"] == figure[1].attrib["id"]
    assert 'aria-hidden="true"' in site_key(MARKS["a"], name="key")
    assert "<title" not in site_key(None, name="all")


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "a$b$", "Clínica São José 東京", "x & y", "_hidden", '"']
)
def test_any_name_is_text_and_nothing_else(name: str) -> None:
    """A site's name is neither markup nor a formula, in whatever letters it is written."""
    with board(name="f", width=100, height=100, title=name, description=name) as page:
        axes = page.axes(left=0, right=0, top=0, bottom=0)
        page.tip(write(axes, 0.5, 0.5, name), name)
    figure = ET.fromstring(page.svg)
    assert [text.text for text in figure.iter("text")].count(name) == 1
    assert [title.text for title in figure.iter("title")] == [name, name]
    assert not list(figure.iter("script"))


def test_a_forest_row_lies_where_its_numbers_say() -> None:
    """Interval ends, target and axis share one scale: a bound of 80 % at a target of 80 % lies on the target's line."""
    figure = _forest(_row("a", 0.9, 0.8, 1.0), target=0.8)
    low, high = _line(figure, "site-0")
    target = _line(figure, "target")[0]
    assert low == pytest.approx(target, abs=0.11)
    ticks = {text.text: float(text.get("x", "0")) for text in figure.iter("text")}
    assert (low, high) == pytest.approx((ticks["80%"], ticks["100%"]), abs=0.11)


@pytest.mark.parametrize("low", [0.0, 0.04, 0.1, 0.39, 0.5, 0.7, 0.94])
def test_no_interval_is_cut_off(low: float) -> None:
    """The axis begins at or below the lowest bound, whatever it is, and has ticks."""
    figure = _forest(_row("a", 0.97, low, 1.0), _row("b", 0.95, None, None), target=0.95)
    start, end = min(_line(figure, "muted")), max(_line(figure, "muted"))
    assert start - 0.1 <= _line(figure, "site-0")[0] <= end
    assert sum("%" in (text.text or "") for text in figure.iter("text")) >= 3


def test_an_unranked_site_looks_different() -> None:
    """A site that is not ranked is drawn in grey, dashed and hollow; a ranked one in its colour."""
    ranked = forest([_row("a", 0.9, 0.8, 1.0)], name="f", title="t", description="d", target=None, percent=True)
    few = _row("a", 0.9, 0.8, 1.0, ranked=False)
    unranked = forest([few], name="f", title="t", description="d", target=None, percent=True)
    assert "var(--site-0)" in ranked
    assert "var(--site-0)" not in unranked
    assert "fill: var(--paper)" in unranked
    assert unranked.count("stroke-dasharray") == 1


def test_curves_of_unranked_sites_can_be_told_apart() -> None:
    """Each is in its site's colour, dashed: two grey ones beside each other would be nobody's."""
    curves = [
        RocCurve(
            mark=MARKS[name], ranked=False, false_positive_rates=[0, 0.2, 1], true_positive_rates=[0, height, 1],
            operating_point=(0.2, height), tip=name,
        )
        for name, height in (("a", 0.8), ("b", 0.7))
    ]  # fmt: skip
    drawn = roc(curves, corner=1.0, name="f", title="t", description="d", target=None)
    assert all(f"stroke: var(--{site})" in drawn for site in ("site-0", "site-1"))
    assert "stroke-dasharray" in drawn


def test_a_site_without_numbers_says_why_in_its_row() -> None:
    """Nothing is drawn for a suppressed site; its row says so in words."""
    row = ForestRow(name="a", mark=MARKS["a"], ranked=False, estimate=None, numbers="suppressed (few)", tip="a")
    figure = _forest(row)
    assert "suppressed (few)" in [text.text for text in figure.iter("text")]
    assert "site-0" not in ET.tostring(figure, encoding="unicode")


def test_the_diamond_is_as_wide_as_its_interval() -> None:
    """All sites together are a diamond from the lower to the upper bound, a bound of 0 included."""
    row = ForestRow(
        name="all", mark=None, ranked=True, estimate=Estimate(value=0.5, low=0.0, high=1.0), numbers="", tip="all"
    )
    figure = _forest(row)
    (shape,) = (path for path in figure.iter("path") if "fill: var(--ink)" in path.get("style", ""))
    places = [float(place) for place in re.findall(r"[ML] (-?[\d.]+)", shape.get("d", ""))]
    axis = _line(figure, "muted")
    assert (min(places), max(places)) == pytest.approx((min(axis), max(axis)), abs=0.11)
    narrow = ForestRow(
        name="all", mark=None, ranked=True, estimate=Estimate(value=0.5, low=None, high=None), numbers="", tip="all"
    )
    assert "fill: var(--ink)" in ET.tostring(_forest(narrow), encoding="unicode")


def test_a_long_name_is_shortened_and_whole_in_the_tip() -> None:
    """A name that does not fit ends in an ellipsis; its tip says it in full."""
    figure = _forest(_row("a_hospital_with_a_very_long_name", 0.9, 0.8, 1.0))
    assert "a_hospital_wit…" in [text.text for text in figure.iter("text")]
    assert "tip a_hospital_with_a_very_long_name" in [title.text for title in figure.iter("title")]


def _roc(*curves: RocCurve, corner: float = 1.0) -> ET.Element:
    return ET.fromstring(roc(curves, corner=corner, name="r", title="t", description="d", target=0.95))


def test_a_roc_curve_and_its_operating_point_share_the_square() -> None:
    """A curve runs corner to corner, and a site that is not ranked is dashed; the pooled curve is ink."""
    rates = {"false_positive_rates": (0.0, 0.2, 1.0), "true_positive_rates": (0.0, 0.9, 1.0)}
    ranked = RocCurve(mark=MARKS["a"], ranked=True, operating_point=(0.2, 0.9), tip="a", **rates)
    few = RocCurve(mark=MARKS["b"], ranked=False, operating_point=None, tip="b", **rates)
    pooled = RocCurve(mark=None, ranked=True, operating_point=(0.2, 0.9), tip="all", **rates)
    figure = _roc(ranked, few, pooled)
    below = (text for text in figure.iter("text") if "text-anchor: middle" in text.get("style", ""))
    ticks = {text.text: float(text.get("x", "0")) for text in below}
    line = _line(figure, "site-0")
    assert (line[0], line[-1]) == pytest.approx((ticks["0%"], ticks["100%"]), abs=0.11)
    (dashed,) = (path for path in figure.iter("path") if "site-1" in path.get("style", ""))
    assert "stroke-dasharray" in dashed.get("style", "")
    assert [title.text for title in figure.iter("title")].count("all") == 2


def test_the_corner_shows_the_same_curves_from_closer() -> None:
    """The corner's axes begin at half the sensitivity, and end at half the false alarms."""
    rates = {"false_positive_rates": (0.0, 0.2, 1.0), "true_positive_rates": (0.0, 0.9, 1.0)}
    figure = _roc(RocCurve(mark=MARKS["a"], ranked=True, operating_point=None, tip="a", **rates), corner=0.5)
    labels = [text.text for text in figure.iter("text")]
    assert labels.count("50%") == 2
    assert "60%" in labels
    assert "0%" in labels


def test_a_mark_outside_the_corner_is_not_drawn_over_the_page() -> None:
    """A mark is drawn in the corner, its edge included, and not beside it."""
    rates = {"false_positive_rates": (0.0, 0.2, 1.0), "true_positive_rates": (0.0, 0.9, 1.0)}
    tips = {}
    for point in ((0.5, 0.5), (0.51, 0.9), (0.2, 0.49)):
        curve = RocCurve(mark=MARKS["a"], ranked=True, operating_point=point, tip="a", **rates)
        tips[point] = [title.text for title in _roc(curve, corner=0.5).iter("title")].count("a")
    assert tips == {(0.5, 0.5): 2, (0.51, 0.9): 1, (0.2, 0.49): 1}


def _training(*curves: Curve, rounds: int = 5, refused: tuple[int, ...] = ()) -> ET.Element:
    along = RoundAxis(rounds=range(1, rounds + 1), chosen=2, stages={3: "layer4"} if rounds > 2 else {})
    crosses = [(number, MARKS["b"], f"refused in {number}") for number in refused]
    svg = training_curves(curves, along, name="t", title="t", description="d", decimals=2, refused=crosses)
    return ET.fromstring(svg)


def test_no_tick_stands_above_what_can_be() -> None:
    """A sensitivity of 1 has no tick of 1.05 above it, and no two ticks read alike."""
    curve = Curve(name="a", mark=MARKS["a"], values=[0.96, 1.0, 0.98])
    along = RoundAxis(rounds=[1, 2, 3], chosen=None, stages={})
    svg = training_curves([curve], along, name="t", title="t", description="d", decimals=2, refused=[], most=1.0)
    ticks = [
        float(text.text or "")
        for text in ET.fromstring(svg).iter("text")
        if re.fullmatch(r"[\d]\.\d\d", text.text or "")
    ]
    assert max(ticks) == 1.0
    assert len(set(ticks)) == len(ticks) >= 3


def test_a_missing_round_is_a_gap_and_a_refusal_a_cross() -> None:
    """A round without a loss breaks the line; it is never drawn as zero, and each refusal is marked."""
    figure = _training(Curve(name="a", mark=MARKS["a"], values=[0.5, 0.4, None, 0.3, 0.2]), refused=(3, 4))
    lines = (path.get("d", "") for path in figure.iter("path") if "stroke: var(--site-0)" in path.get("style", ""))
    assert next(lines).count("M") == 2
    tips = [title.text for title in figure.iter("title")]
    assert {"refused in 3", "refused in 4"} <= set(tips)
    words = [text.text for text in figure.iter("text")]
    assert {"chosen", "layer4 trains"} <= set(words)


@pytest.mark.parametrize("rounds", [2, 3, 200])
def test_any_number_of_rounds_is_drawn(rounds: int) -> None:
    """Two rounds and two hundred give a figure with whole rounds on its axis, never more than can be read."""
    figure = _training(Curve(name="all", mark=None, values=[0.5] * rounds), rounds=rounds)
    ticks = [text.text for text in figure.iter("text") if (text.text or "").isdigit()]
    assert 2 <= len(ticks) <= 10


def test_a_study_of_one_round_without_any_value_is_drawn() -> None:
    """A single round in which nothing could be measured gives an empty figure, not a fault."""
    along = RoundAxis(rounds=[1], chosen=1, stages={})
    curve = Curve(name="a", mark=MARKS["a"], values=[None])
    assert "chosen" in training_curves([curve], along, name="t", title="t", description="d", decimals=2, refused=[])


@pytest.mark.parametrize(
    ("target", "words"), [(0.995, "target 99.5 %"), (0.9, "target 90 %"), (0.9725, "target 97.25 %")]
)
def test_a_target_keeps_its_decimals(target: float, words: str) -> None:
    """Rounded to whole per cents .995 would read as 100 %, in forest plots and beside ROC curves."""
    curve = RocCurve(
        mark=None,
        ranked=True,
        false_positive_rates=[0, 1],
        true_positive_rates=[0, 1],
        operating_point=None,
        tip="all sites",
    )
    drawn = roc([curve], corner=1.0, name="r", title="Title", description="Text", target=target)
    for figure in (ET.tostring(_forest(_row("a", 0.9, 0.8, 1.0), target=target), encoding="unicode"), drawn):
        assert words in figure
