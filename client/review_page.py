"""The review page: a hospital's own images with what the model looked at, as one file that only its user can read."""

import base64
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from client.explain import METHODS, STRIDES, map_stage
from client.image_index import printable
from client.review import KINDS, Case, Gallery
from shared.protocol import StudyProtocol
from shared.storage import private_file

COLOUR = (230, 97, 0)
"""Orange: on a grey film it is told by its hue and, for those who do not see that, beside the plain film."""

STRENGTH = 0.6
"""How much of the film the colour hides where the map is highest."""

STAYS = (
    "<strong>Images of patients. This page stays here.</strong> It was made at this hospital for its own staff; no "
    "program of Polyclinic sends it, and the study is not told of it."
)

HOW_TO_READ = (
    "The {side} patients of this hospital, at the study's shared threshold. First the film as the model gets it "
    "(prepared, so that small things may be gone), then the same under its {methods} map: the more orange, the more "
    "that place raised the score. The maps have {cells} by {cells} cells ({stage}) and are stretched: they say roughly "
    "where, and not why. One that lies on letters, tubes or the edge of the film is worth a second look."
)

HOW_FAR = (
    "A map is a question, not an answer. On phantom films, whose findings are known, the highest place of a Grad-CAM "
    "map lay on the finding no more often than a random place would, of a model that tells such films apart well. "
    "That of a HiResCAM map did so far more often, and not always. <code>polyclinic study pointing</code> repeats it."
)

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a2126; --muted: #59646b; --rule: #c3ccd1; --alarm: #a83a00; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #12181c; --ink: #e7edf0; --muted: #9dabb3; --rule: #3d4a52; --alarm: #ff9e6b; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 1.5rem clamp(16px, 3vw, 40px); background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1, h2, h3 { line-height: 1.2; } h2::first-letter, h3::first-letter { text-transform: uppercase; }
p { max-width: 72ch; } .stay { border-left: 4px solid var(--alarm); padding-left: 1rem; }
ul { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 1.2rem; }
figure { margin: 0; width: 30rem; max-width: 100%; }
figure > div { display: flex; gap: 4px; }
img { flex: 1 1 0; min-width: 0; height: auto; image-rendering: auto; display: block; }
figcaption, .note { color: var(--muted); font-size: .875rem; overflow-wrap: anywhere; }
@media print { figure { break-inside: avoid; } }
"""


def write_page(path: Path, galleries: Iterable[Gallery], protocol: StudyProtocol, *, site: str, side: str) -> None:
    """Write the page into a folder of this user's alone.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    text = "\n".join(_page(galleries, protocol, site=site, side=side))
    with private_file(path) as part:
        part.write_text(text, encoding="utf-8")


def overlay(pixels_CHW: npt.NDArray[Any], map_HW: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Lay the map over the image (H, W, 3): the more colour, the more of the map's own highest value."""
    film = film_HWC(pixels_CHW).astype(np.float32)
    share = STRENGTH * (map_HW / map_HW.max() if map_HW.max() > 0 else map_HW)[..., np.newaxis]
    mixed: npt.NDArray[np.uint8] = np.rint(film * (1 - share) + np.array(COLOUR, np.float32) * share).astype(np.uint8)
    return mixed


def film_HWC(pixels_CHW: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Show a prepared image with eight bits and three channels."""
    eight = pixels_CHW if pixels_CHW.dtype == np.uint8 else (pixels_CHW >> 8).astype(np.uint8)
    film: npt.NDArray[np.uint8] = np.broadcast_to(eight.transpose(1, 2, 0), (*eight.shape[1:], 3))
    return film


def _page(galleries: Iterable[Gallery], protocol: StudyProtocol, *, site: str, side: str) -> Iterator[str]:
    study, size = escape(protocol.study.name), protocol.images.size
    stage = map_stage(size)
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"  # noqa: E501  # one attribute
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{study}: review at {escape(site)}</title><style>{STYLE}</style></head><body><main>"
    yield f"<h1>{study}: review at {escape(site)}</h1>"
    yield f'<p class="stay">{STAYS}</p>'
    cells = size // STRIDES[stage]
    methods = " and its ".join(METHODS)
    yield f"<p>{HOW_TO_READ.format(side=side, cells=cells, stage=stage, methods=methods)}</p><p>{HOW_FAR}</p>"
    for gallery in galleries:
        yield from _gallery(gallery, unit=protocol.task.unit)
    yield "</main></body></html>"


def _gallery(gallery: Gallery, *, unit: str) -> Iterator[str]:
    yield f"<section><h2>{escape(gallery.finding)}</h2>"
    if gallery.threshold is None:
        yield "<p>The study could choose no threshold for it, so that no call is right or wrong.</p></section>"
        return
    yield f"<p>Threshold {gallery.threshold:.4g}.</p>"
    for kind in KINDS:
        cases, count = gallery.cases[kind], gallery.counts[kind]
        order = "farthest from the threshold first" if kind.startswith("false") else "nearest to the threshold first"
        few = f", {len(cases)} shown, {order}" if len(cases) < count else f", {order}" if count > 1 else ""
        yield f'<h3>{kind}s</h3><p class="note">{count:,} {unit}{"s" if count != 1 else ""}{few}</p><ul>'
        yield from (_case(case, kind) for case in cases)
        yield "</ul>"
    yield "</section>"


def _case(case: Case, kind: str) -> str:
    pictures = {"Film": film_HWC(case.pixels_CHW)}
    pictures |= {f"Film under its {name} map": overlay(case.pixels_CHW, map_HW) for name, map_HW in case.maps.items()}
    shown = "".join(
        f'<img src="{_picture(film)}" alt="{name}, {kind}" title="{name}">' for name, film in pictures.items()
    )
    name = escape(printable(case.file))
    frame = f", frame {case.frame + 1}" if case.frame else ""
    empty = [method for method, map_HW in case.maps.items() if map_HW.max() <= 0]
    nothing = f" Nothing raised the score by {' and by '.join(empty)}." if empty else ""
    return (
        f"<li><figure><div>{shown}</div>"
        f"<figcaption>score {case.score:.3f}{frame}. {name}.{nothing}</figcaption></figure></li>"
    )


def _picture(film: npt.NDArray[np.uint8]) -> str:
    png = imagecodecs.png_encode(np.ascontiguousarray(film))
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
