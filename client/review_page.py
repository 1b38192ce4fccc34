"""The review page: a hospital's own images with what the model looked at, as one file that only its user can read."""

import base64
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from client.explain import SHOWN, STRIDES, all_the_same, map_stage
from client.image_index import printable
from client.review import KINDS, Case, Gallery
from shared.intervals import wilson
from shared.metrics import Count
from shared.pointing import Pointing
from shared.protocol import StudyProtocol
from shared.storage import private_file

COLOUR = (230, 97, 0)
"""Orange: on a grey film it is told by its hue and, for those who do not see that, beside the plain film."""

CONFIDENCE = 0.95
"""Of the interval of how often maps point at a finding."""

STRENGTH = 0.6
"""How much of the film the colour hides where the map is highest."""

STAYS = (
    "<strong>Images of patients. This page stays here.</strong> It was made at this hospital for its own staff; no "
    "program of Polyclinic sends it, and the study is not told of it."
)

HOW_TO_READ = (
    "The {side} patients of this hospital, at the study's shared threshold. Each pair shows the film as the model "
    "gets it (prepared, so that small things may be gone), then the same film under its {method} map{same}: the more "
    "orange, the more that place raised the score. The map has {cells} by {cells} cells ({stage}) and is stretched: "
    "it says roughly where, and not why. One that lies on letters, tubes or the edge of the film is worth a second "
    "look. Press a picture to see it as large as the window, and again to go back."
)

SAME = " (with this network the same as Grad-CAM)"

NOT_MEASURED = (
    "A map is a question, not an answer. How often the maps of this model point at a finding was not measured: "
    "<code>polyclinic study pointing</code> does it on phantom films, whose findings are known, and keeps what it "
    "finds beside the model's file, where this page reads it."
)

MEASURED = (
    "A map is a question, not an answer. On phantom films, whose findings are known, the highest place of this model's "
    "map lay on the finding {rates}. Of films of patients nothing is known."
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
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 2rem; }
figure { margin: 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 8px; }
.film { display: block; cursor: zoom-in; } .film span { display: block; }
.film input { position: absolute; opacity: 0; } .film input:focus-visible + img { outline: 3px solid var(--alarm); }
img { width: 100%; height: auto; display: block; background: #000; }
.film input:checked + img { position: fixed; inset: 0; z-index: 1; width: 100vw; height: 100vh; object-fit: contain;
  cursor: zoom-out; background: var(--paper); }
figcaption, .note, .film span { color: var(--muted); font-size: .875rem; overflow-wrap: anywhere; }
figcaption { margin-bottom: .3rem; } figcaption b { color: var(--ink); }
.scale { display: inline-block; width: 8rem; height: .7em; border: 1px solid var(--rule);
  background: linear-gradient(to right, transparent, rgb(230 97 0 / .6)); }
@media print {
  figure { break-inside: avoid; } .film input:checked + img { position: static; width: 100%; height: auto; }
}
"""


def write_page(
    path: Path,
    galleries: Iterable[Gallery],
    protocol: StudyProtocol,
    *,
    site: str,
    side: str,
    measured: Sequence[Pointing] = (),
) -> None:
    """Write the page into a folder of this user's alone; `measured` is what is known of where this model's maps point.

    Raises:
        StorageError: the disk is full or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)
    text = "\n".join(_page(galleries, protocol, site=site, side=side, measured=measured))
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


def _page(
    galleries: Iterable[Gallery], protocol: StudyProtocol, *, site: str, side: str, measured: Sequence[Pointing]
) -> Iterator[str]:
    study, size = escape(protocol.study.name), protocol.images.size
    stage = map_stage(size)
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"  # noqa: E501  # one attribute
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f"<title>{study}: review at {escape(site)}</title><style>{STYLE}</style></head><body><main>"
    yield f"<h1>{study}: review at {escape(site)}</h1>"
    yield f'<p class="stay">{STAYS}</p>'
    cells, same = size // STRIDES[stage], SAME if all_the_same(stage) else ""
    yield f"<p>{HOW_TO_READ.format(side=side, cells=cells, stage=stage, method=SHOWN, same=same)}</p>"
    yield f"<p>{how_far(measured)}</p>"
    yield '<p class="note"><span class="scale"></span> from nothing to the most on this film</p>'
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
        yield f'<h3>{kind}s</h3><p class="note">{MEANING[kind].format(finding=escape(gallery.finding))} '
        yield f"{count:,} {unit}{'s' if count != 1 else ''}{few}.</p><ol>"
        for place, case in enumerate(cases, start=1):
            yield _case(case, kind, number=f"{place} of {count:,}", threshold=gallery.threshold)
        yield "</ol>"
    yield "</section>"


MEANING = {
    "false negative": "Labelled {finding}, and not called so: missed.",
    "false positive": "Called {finding}, and not labelled so: a false alarm.",
    "true positive": "Labelled {finding}, and called so.",
    "true negative": "Neither labelled {finding} nor called so.",
}
"""What each kind means, said where it is shown."""


def _case(case: Case, kind: str, *, number: str, threshold: float) -> str:
    pictures = {"film": film_HWC(case.pixels_CHW), "film under its map": overlay(case.pixels_CHW, case.map_HW)}
    shown = "".join(
        f'<label class="film"><input type="checkbox"><img src="{_picture(film)}" alt="{name}, {kind} {number}">'
        f"<span>{name}</span></label>"
        for name, film in pictures.items()
    )
    name = escape(printable(case.file))
    frame = f", frame {case.frame + 1}" if case.frame else ""
    nothing = " Nothing raised the score." if case.map_HW.max() <= 0 else ""
    side = "above" if case.score >= threshold else "below"
    return (
        f"<li><figure><figcaption><b>{kind} {number}</b>: score {case.score:.3f}, {side} the threshold of "
        f'{threshold:.4g}{frame}. {name}.{nothing}</figcaption><div class="pair">{shown}</div></figure></li>'
    )


def how_far(measured: Sequence[Pointing]) -> str:
    """Say how far a map can be trusted: what was measured of this model, and nothing of another."""
    own = [one for one in measured if one.method == SHOWN]
    if not own:
        return NOT_MEASURED
    rates = []
    for one in own:
        share = wilson(Count(k=one.hits, n=one.films), confidence=CONFIDENCE)
        ends = f"{100 * share.low:.0f} to {100 * share.high:.0f} %" if share else "no interval"
        rates.append(
            f"in {one.hits:,} of {one.films:,} for {escape(one.finding)} ({ends}), where a place at random would in "
            f"{100 * one.chance:.0f} %"
        )
    return MEASURED.format(rates="; ".join(rates))


def _picture(film: npt.NDArray[np.uint8]) -> str:
    png = imagecodecs.png_encode(np.ascontiguousarray(film))
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
