"""The report as Chromium shows it: on a wide and on a narrow screen, light and dark.

Each page is measured by a page around it, since the report itself runs no script, and then photographed. With
`--basetemp=DIR` the pictures stay in DIR, to be looked at.
"""

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from server.report import render
from server.results_json import read

GOLDEN = Path(__file__).parents[1] / "golden" / "study_result.json"
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
)
THEMES = {"dark": "0", "light": "1"}
SECONDS = 120

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: apt-get install chromium")

# Chromium's own window is at least 500 pixels wide, so that a narrow screen is a frame in a wider page.
FRAME = """<!doctype html><body style="margin:0">
<iframe src="{page}" style="width:{width}px;height:{height}px;border:0"></iframe>
<script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument;
  const all = (selector, inside = page) => [...inside.querySelectorAll(selector)];
  const box = element => element.getBoundingClientRect();
  const figures = all("figure svg");
  const shownSize = text => {{
    const figure = text.closest("svg");
    return parseFloat(getComputedStyle(text).fontSize) * box(figure).width / figure.viewBox.baseVal.width;
  }};
  const sticksOut = (text, figure) => box(text).right > box(figure).right + 4 || box(text).left < box(figure).left - 4;
  const measured = {{
    width: page.documentElement.scrollWidth,
    height: page.documentElement.scrollHeight,
    widest_figure: Math.max(...figures.map(figure => box(figure).right)),
    smallest_text: Math.min(...all("figure svg text").map(shownSize)),
    cut_texts: figures.flatMap(figure => all("text", figure).filter(text => sticksOut(text, figure)))
      .map(text => text.textContent),
    answers_end: Math.max(...all(".answers > div").map(one => box(one).bottom)),
    summary_end: box(page.querySelector(".summary")).bottom,
    answers: all(".answers > div").map(one => one.innerText),
    paper: getComputedStyle(page.body).backgroundColor,
  }};
  document.body.insertAdjacentHTML("beforeend", "<pre>" + JSON.stringify(measured) + "</pre>");
}};
</script></body>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder that holds the sample study's report."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "report.html").write_text(render(read(GOLDEN)), encoding="utf-8")
    return folder


def _chromium(folder: Path, *arguments: str, theme: str = "light") -> str:
    """Run Chromium on the frame page, with a profile of its own."""
    command = [
        CHROMIUM,
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={THEMES[theme]}",
        *arguments,
        (folder / "frame.html").as_uri(),
    ]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS).stdout


@functools.cache
def _measure(folder: Path, *, width: int, theme: str = "light", page: str = "report.html") -> dict[str, object]:
    (folder / "frame.html").write_text(FRAME.format(page=page, width=width, height=900), encoding="utf-8")
    dump = _chromium(folder, "--dump-dom", "--window-size=1500,1000", theme=theme)
    found = re.search(r"<pre>({.*?})</pre>", dump)
    assert found, "the page around the report could not measure it"
    return dict(json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&")))


def _photograph(folder: Path, *, width: int, height: int, theme: str) -> np.ndarray:
    """Take a picture of the whole page, as (height, width, RGB)."""
    image = pytest.importorskip("PIL.Image", reason="pillow reads the picture: pip install pillow")
    (folder / "frame.html").write_text(FRAME.format(page="report.html", width=width, height=height), encoding="utf-8")
    picture = folder / f"report-{width}-{theme}.png"
    _chromium(folder, f"--screenshot={picture}", f"--window-size={max(width, 500)},{height}", theme=theme)
    with image.open(picture) as opened:
        return np.asarray(opened.convert("RGB"))[:, :width]


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_sticks_out_and_every_text_can_be_read(folder: Path, width: int) -> None:
    """The page is never wider than its window: tables scroll within themselves, and figures' text stays 10 px high."""
    measured = _measure(folder, width=width)
    assert measured["width"] == width
    assert measured["widest_figure"] <= width
    assert measured["smallest_text"] >= 9.5
    assert measured["cut_texts"] == []


@pytest.mark.parametrize(("width", "screens"), [(400, 2), (800, 1), (1400, 1)])
def test_four_answers_are_read_without_scrolling_twice(folder: Path, width: int, screens: int) -> None:
    """Where it is least safe, how sure, why, and whether it was worth joining: on a telephone within two screens."""
    measured = _measure(folder, width=width)
    assert float(str(measured["answers_end"])) < 800 * screens
    found = measured["answers"]
    assert isinstance(found, list)
    for question, answer in zip(found, ("st_marys", "falls short", "told apart", "Yes in 4 of 8"), strict=True):
        assert answer in question


def test_the_first_sheet_of_paper_is_the_summary(folder: Path) -> None:
    """As it is printed, on A4 with margins of a centimetre, the summary ends on its first sheet, and breaks there."""
    text = (folder / "report.html").read_text(encoding="utf-8").replace("@media print", "@media all")
    (folder / "printed.html").write_text(text, encoding="utf-8")
    measured = _measure(folder, width=718, page="printed.html")
    assert float(str(measured["summary_end"])) < 1047
    assert ".summary { break-after: page; }" in text


@pytest.mark.parametrize(("theme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(18, 24, 28)")])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_is_drawn_in_its_theme(folder: Path, theme: str, paper: str, width: int) -> None:
    """The picture shows paper of the theme, and every site's colour, which only figures' variables can bring."""
    measured = _measure(folder, width=width, theme=theme)
    assert measured["paper"] == paper
    height = int(str(measured["height"]))
    pixels = _photograph(folder, width=width, height=height, theme=theme)
    assert pixels.shape == (height, width, 3)
    packed = (pixels.astype(np.uint32) * (1 << 16, 1 << 8, 1)).sum(axis=2)
    ground = int("{:02x}{:02x}{:02x}".format(*map(int, re.findall(r"\d+", paper))), 16)
    assert (packed == ground).mean() > 0.5
    assert (packed[:, -4:] == ground).mean() > 0.99
    css = (folder / "report.html").read_text(encoding="utf-8").split("@media screen", 1)[theme == "dark"]
    for site in range(5):
        colour = re.search(rf"--site-{site}: #(\w{{6}})", css)
        assert colour is not None
        assert (packed == int(colour[1], 16)).sum() > 200
