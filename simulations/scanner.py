"""Turns a phantom film into the values that one vendor's scanner stores: blur, contrast curve, noise, marker, bits."""

import math
from dataclasses import dataclass

import numpy as np

from simulations.dicom_writer import Encoding, Stored
from simulations.phantom import Film

GLYPH = np.array(
    [[1, 1, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0], [1, 0, 1, 0], [1, 0, 0, 1], [1, 0, 0, 1]], np.bool_
)
"""The letter R, as a technician's lead marker prints it."""

MARKER_HEIGHT = 1 / 8
"""Height of a burned-in marker, as a fraction of the film's height."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """One vendor's way from density to stored value; everything that differs between hospitals but the patients.

    `gamma` above 1 darkens the film; `steepness` above 0 bends it into an S (toe and shoulder), so that dark parts
    lose contrast. Noise comes after the curve, in units of the full scale: what the curve flattens, noise drowns.
    """

    manufacturer: str
    model_name: str
    rows: int
    columns: int
    spacing_mm: float
    encoding: Encoding
    bits_stored: int = 12
    monochrome1: bool = False
    gamma: float = 1.0
    steepness: float = 0.0
    noise: float = 0.01
    blur_px: float = 0.5

    @property
    def photometric(self) -> str:
        """The DICOM Photometric Interpretation of its files."""
        return "MONOCHROME1" if self.monochrome1 else "MONOCHROME2"


def expose(film: Film, scanner: Scanner, *, marked: bool, rng: np.random.Generator) -> Stored:
    """Return the stored values (rows, columns) of one exposure: uint8 for 8 bits stored, else uint16."""
    seen = contrast_curve(_blurred(film, scanner.blur_px), gamma=scanner.gamma, steepness=scanner.steepness)
    seen += scanner.noise * rng.standard_normal(seen.shape, np.float32)
    if marked:
        _burn_in(seen)
    top = 2**scanner.bits_stored - 1
    values = np.rint(np.clip(seen, 0, 1) * top)
    stored: Stored = (top - values if scanner.monochrome1 else values).astype(
        np.uint8 if scanner.bits_stored == 8 else np.uint16
    )
    return stored


def contrast_curve(film: Film, *, gamma: float, steepness: float) -> Film:
    """Apply the curve; it rises from (0, 0) to (1, 1) whatever its parameters."""
    bent: Film = film**gamma
    if steepness == 0:
        return bent
    end = math.tanh(steepness / 2)
    curved: Film = (np.tanh(steepness * (bent - 0.5)) + end) / (2 * end)
    return curved


def _blurred(film: Film, sigma_px: float) -> Film:
    """Gaussian blur, edges repeated."""
    if sigma_px == 0:
        return film
    reach = math.ceil(3 * sigma_px)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2)
    weights /= weights.sum()
    rows, columns = film.shape
    padded = np.pad(film, reach, mode="edge")
    tall, wide = np.zeros((rows, padded.shape[1]), np.float32), np.zeros_like(film)
    for start, weight in enumerate(weights.tolist()):
        tall += weight * padded[start : start + rows]
    for start, weight in enumerate(weights.tolist()):
        wide += weight * tall[:, start : start + columns]
    return wide


def _burn_in(film: Film) -> None:
    """Print the marker into the upper left corner of the film."""
    scale = max(1, round(len(film) * MARKER_HEIGHT / len(GLYPH)))
    glyph = np.kron(GLYPH, np.ones((scale, scale), np.bool_))
    margin = 2 * scale
    corner = film[margin : margin + glyph.shape[0], margin : margin + glyph.shape[1]]
    corner[glyph[: corner.shape[0], : corner.shape[1]]] = 1.0
