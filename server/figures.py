"""The drawing board: a mark for each site, quiet axes, and matplotlib figures as themed inline SVG (door: matplotlib).

A figure carries no colour of its own: what is drawn in one of the colours below comes out as the CSS variable of the
same name in report.css, so that the page's light and dark themes, and a printer, each colour it for themselves.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes as Axes
from matplotlib.figure import Figure
from matplotlib.markers import MarkerStyle
from matplotlib.patches import PathPatch

SITE_COLOURS = 8
"""Colours in report.css; a ninth site takes the first colour again with another shape."""

INK, MUTED, GRID, PAPER, TARGET = (f"#00000{number}" for number in range(1, 6))
_SITES = tuple(f"#0000{number:02x}" for number in range(16, 16 + SITE_COLOURS))
_VARIABLES = dict(zip((INK, MUTED, GRID, PAPER, TARGET), ("ink", "muted", "grid", "paper", "target"), strict=True))
_VARIABLES |= {colour: f"site-{index}" for index, colour in enumerate(_SITES)} | {"#000000": "ink"}

_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "h")
_PIXELS_PER_INCH = 72  # matplotlib's SVG unit is the point; at 72 dots an inch one unit is one CSS pixel
WIDTH = 368  # of every figure: three stand side by side on a wide screen, and one fits a telephone
TEXT_PX = 12
SMALL_PX = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteMark:
    """A site's colour and shape, the same in every figure and table; never told by colour alone."""

    colour: str
    shape: str


def site_marks(sites: Sequence[str]) -> dict[str, SiteMark]:
    """Give each site its mark by its place in canonical order."""
    return {
        site: SiteMark(
            colour=_SITES[place % SITE_COLOURS],
            shape=_SHAPES[(place + place // SITE_COLOURS) % len(_SHAPES)],
        )
        for place, site in enumerate(sites)
    }


class Board:
    """One figure being drawn, in CSS pixels; `svg` holds it once its block has ended."""

    def __init__(self, *, name: str, width: int, height: int) -> None:
        self.name, self.width, self.height = name, width, height
        self.svg = ""
        self.figure = Figure(figsize=(width / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH), dpi=_PIXELS_PER_INCH)
        self.tips: dict[str, str] = {}

    def axes(self, *, left: float, right: float, top: float, bottom: float) -> Axes:
        """Add quiet axes, inset by these margins: no frame, a faint grid, muted numbers."""
        inner = (self.width - left - right) / self.width, (self.height - top - bottom) / self.height
        axes = self.figure.add_axes((left / self.width, bottom / self.height, *inner))
        axes.patch.set_visible(False)
        axes.spines[["left", "top", "right"]].set_visible(False)
        axes.spines["bottom"].set_color(MUTED)
        axes.tick_params(length=0, pad=6, colors=MUTED, labelsize=SMALL_PX)
        axes.grid(color=GRID, linewidth=1)
        axes.set_axisbelow(True)
        return axes

    def tip(self, artist: Artist, text: str) -> None:
        """Show a text when a pointer rests on an artist."""
        name = f"tip-{len(self.tips)}"
        artist.set_gid(name)
        self.tips[name] = text


def write(axes: Axes, x: float, y: float, text: str, *, dx: float = 0, dy: float = 0, **style: Any) -> Artist:
    """Write text beside a place in data coordinates, `dx` and `dy` pixels off it; `$` is a dollar, whoever wrote it."""
    plain: dict[str, Any] = {"color": INK, "fontsize": TEXT_PX, "parse_math": False, "annotation_clip": False}
    return axes.annotate(text, (x, y), (dx, dy), textcoords="offset points", **(plain | style))


@contextmanager
def board(*, name: str, width: int, height: int, title: str, description: str) -> Iterator[Board]:
    """Draw one figure, with a title and a description for those who hear the page.

    The same drawing gives the same bytes, whatever the user's own matplotlib settings. `name` is unique in the page.
    An empty title makes the figure decoration, which a screen reader passes over.
    """
    with matplotlib.rc_context(), warnings.catch_warnings():
        # The reader's own fonts draw the text; that matplotlib's lacks a letter of a site's name is of no matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": name, "svg.fonttype": "none", "axes.unicode_minus": True})
        page = Board(name=name, width=width, height=height)
        yield page
        raw = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        page.figure.savefig(raw, format="svg", metadata=nothing, transparent=True)
        page.svg = _inline(raw.getvalue(), page, title, description)


def site_key(mark: SiteMark | None, *, name: str) -> str:
    """Draw a site's mark alone, under an id by which tables and keys show it; None is the diamond of all sites."""
    shape, colour = (MarkerStyle("d"), INK) if mark is None else (MarkerStyle(mark.shape), mark.colour)
    with board(name=name, width=14, height=14, title="", description="") as page:
        axes = page.axes(left=0, right=0, top=0, bottom=0)
        axes.set_axis_off()
        axes.set_xlim(-0.7, 0.7)
        axes.set_ylim(-0.7, 0.7)
        path = shape.get_path().transformed(shape.get_transform())
        axes.add_patch(PathPatch(path, facecolor=colour, edgecolor=colour, clip_on=False))
    return page.svg


def _inline(raw: str, page: Board, title: str, description: str) -> str:
    """Turn a stand-alone SVG file into an element of the page."""
    root = ET.fromstring(raw)  # noqa: S314  # written by matplotlib a line ago
    for parent in list(root.iter()):
        for child in [child for child in parent if child.tag.endswith(("}metadata", "}style"))]:
            parent.remove(child)
    for element in root.iter():
        _clean(element, page.tips)
    root.attrib = {"viewBox": root.attrib["viewBox"], "width": str(page.width), "height": str(page.height)}
    if not title:
        return _text(root, {"id": page.name, "aria-hidden": "true"})
    root.insert(0, _element("title", title, id=f"{page.name}-title"))
    root.insert(1, _element("desc", description, id=f"{page.name}-text"))
    labels = {"aria-labelledby": f"{page.name}-title", "aria-describedby": f"{page.name}-text"}
    return _text(root, {"role": "img"} | labels)


def _clean(element: ET.Element, tips: dict[str, str]) -> None:
    """Drop namespaces, unused ids and needless digits; put the page's colours, fonts and tips in."""
    element.tag = element.tag.split("}")[-1]
    identity = element.attrib.pop("id", "") if element.tag == "g" else ""
    if identity in tips:
        element.insert(0, _element("title", tips[identity]))
    for key, value in list(element.attrib.items()):
        del element.attrib[key]
        if not value.startswith("rotate(-0 "):  # matplotlib writes one for every upright text
            element.set(key.split("}")[-1], _themed(value) if key == "style" else _short(value))
    element.tail = None
    if element.text and not element.text.strip():
        element.text = None


def _themed(style: str) -> str:
    style = re.sub(r"font-family: [^;]*;? ?", "", style)
    return re.sub(r"#0000[0-9a-f]{2}", lambda found: f"var(--{_VARIABLES[found[0]]})", style)


def _short(numbers: str) -> str:
    squeezed = " ".join(numbers.split())
    return re.sub(r"-?\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}", squeezed)


def _element(tag: str, text: str, **attributes: str) -> ET.Element:
    element = ET.Element(tag, attributes)
    element.text = text
    return element


def _text(root: ET.Element, attributes: dict[str, str]) -> str:
    root.attrib |= attributes
    return ET.tostring(root, encoding="unicode")
