"""Draws a phantom chest film, with or without a finding, in relative density from 0 (air) to 1 (metal)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Film = NDArray[np.float32]
"""A frontal film (H, W) as it hangs on the wall: the patient's right lung on the viewer's left, head up."""

Field = NDArray[np.floating[Any]]
"""A value for each pixel, on the way to a film; float32 in fact."""

LUNG_TOP, LUNG_BOTTOM = 0.16, 0.78
"""Where the lungs begin and end, as fractions of the film's height."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How one kind of finding looks; lengths in film heights, `depth` from lung apex (0) to base (1)."""

    radius: tuple[float, float]
    depth: tuple[float, float]
    contrast: tuple[float, float]
    flatness: float = 1.0
    hardness: float = 1.0
    pieces: int = 1


KINDS = (
    Kind(radius=(0.07, 0.13), depth=(0.2, 0.8), contrast=(0.12, 0.55)),
    Kind(radius=(0.10, 0.16), depth=(0.9, 1.0), contrast=(0.15, 0.4), flatness=0.5, hardness=2.0),
    Kind(radius=(0.012, 0.022), depth=(0.1, 0.9), contrast=(0.15, 0.35), hardness=3.0, pieces=7),
    Kind(radius=(0.12, 0.18), depth=(0.1, 0.6), contrast=(0.12, 0.3), flatness=0.12, hardness=2.0),
    Kind(radius=(0.04, 0.07), depth=(0.1, 0.8), contrast=(0.2, 0.4), hardness=4.0),
    Kind(radius=(0.12, 0.17), depth=(0.4, 0.5), contrast=(0.1, 0.25), pieces=2),
)
"""Consolidation, effusion, nodules, band, mass, haze: soft blobs of other sizes, places, edges and numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """One opacity, placed: centre and radius in film heights, x from the midline, positive to the viewer's right."""

    y: float
    x: float
    radius: float
    contrast: float
    flatness: float
    hardness: float
    angle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """What stays the same over one patient's films; lengths in film heights."""

    lung_width: float
    lung_gap: float
    heart: float
    liver: float
    rib_count: float
    rib_phase: float
    rib_contrast: float
    soft_tissue: float
    vessels: float
    mottle_seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """How one exposure differs from the next: shift in film heights, tilt in radians, magnification."""

    y: float
    x: float
    tilt: float
    magnification: float


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Decide one patient's anatomy."""
    return Anatomy(
        lung_width=rng.uniform(0.14, 0.18),
        lung_gap=rng.uniform(0.17, 0.20),
        heart=rng.uniform(0.10, 0.15),
        liver=rng.uniform(0.02, 0.06),
        rib_count=rng.uniform(8, 11),
        rib_phase=rng.uniform(0, 2 * math.pi),
        rib_contrast=rng.uniform(0.02, 0.08),
        soft_tissue=rng.uniform(0.0, 0.12),
        vessels=rng.uniform(0.015, 0.05),
        mottle_seed=int(rng.integers(2**32)),
    )


def draw_pose(rng: np.random.Generator) -> Pose:
    """Decide how the patient stands at one exposure."""
    return Pose(
        y=rng.normal(0, 0.015),
        x=rng.normal(0, 0.015),
        tilt=rng.normal(0, 0.03),
        magnification=rng.uniform(0.94, 1.06),
    )


def draw_finding(rng: np.random.Generator, *, number: int, anatomy: Anatomy) -> tuple[Blob, ...]:
    """Decide where the study's finding `number` lies in one exam, and how plain it is to see.

    Findings beyond the number of kinds reuse them, each time half as large again.
    """
    turn, index = divmod(number, len(KINDS))
    kind = KINDS[index]
    # Two pieces lie in both lungs; more, or one, wherever chance puts them.
    sides = (-1, 1) if kind.pieces == 2 else rng.choice((-1, 1), size=kind.pieces).tolist()
    contrast = rng.uniform(*kind.contrast)
    return tuple(
        Blob(
            y=LUNG_TOP + (LUNG_BOTTOM - LUNG_TOP) * rng.uniform(*kind.depth),
            x=side * (anatomy.lung_gap + anatomy.lung_width * rng.uniform(-0.4, 0.4)),
            radius=rng.uniform(*kind.radius) * 1.5**turn,
            contrast=contrast,
            flatness=kind.flatness * rng.uniform(0.8, 1.2),
            hardness=kind.hardness,
            angle=rng.uniform(-0.5, 0.5),
        )
        for side in sides
    )


def draw_film(anatomy: Anatomy, blobs: Sequence[Blob], pose: Pose, *, rows: int, columns: int) -> Film:
    """Draw one film from what was decided; the same arguments give the same pixels.

    Left and right differ as in a patient: the heart points to the viewer's right, the liver lifts the diaphragm
    on the viewer's left, and the stomach's air bubble lies on the viewer's right.
    """
    y, x = _coordinates(pose, rows, columns)
    side: Field = np.abs(x)
    lungs = _lungs(anatomy, y, x)
    body = _step(0.44 - side - 0.25 * _step(0.14 - y, 0.04), 0.015)
    breasts = anatomy.soft_tissue * _bump(y, x, 0.62, 0.0, 0.16, 0.4)
    spine = _bump(y, x, 0.5, 0.0, 0.7, 0.035)
    heart = _step(1 - _ellipse(y, x, 0.63, 0.07, anatomy.heart, 1.2 * anatomy.heart), 0.15)
    vessels = anatomy.vessels * _mottle(anatomy.mottle_seed, rows, columns)
    clavicles = _step(0.016 - np.abs(y - 0.13 + 0.25 * side), 0.006) * _step(0.34 - side, 0.02)
    stomach = _bump(y, x, 0.84, 0.17, 0.03, 0.05)
    in_lungs = breasts - 0.40 + 0.25 * heart + _ribs(anatomy, y, x) + vessels
    film = 0.62 * body + 0.20 * spine + 0.14 * clavicles - 0.25 * stomach + lungs * in_lungs
    for blob in blobs:
        film += _opacity(blob, y, x) * (0.25 + 0.75 * lungs)
    clipped: Film = np.clip(film, 0, 1).astype(np.float32, copy=False)
    return clipped


def _coordinates(pose: Pose, rows: int, columns: int) -> tuple[Field, Field]:
    """Anatomical coordinates of each pixel: y from the film's top, x from the midline, both in film heights."""
    down = (np.arange(rows, dtype=np.float32)[:, None] + 0.5) / rows - 0.5
    right = (np.arange(columns, dtype=np.float32)[None, :] + 0.5 - columns / 2) / rows
    cos, sin = math.cos(pose.tilt) / pose.magnification, math.sin(pose.tilt) / pose.magnification
    y: Field = cos * down - sin * right + (0.5 + pose.y)
    x: Field = sin * down + cos * right + pose.x
    return y, x


def _step(distance: Field, softness: float) -> Field:
    """Rise from 0 outside (negative distance) to 1 inside, with an edge of the given softness."""
    inside: Field = 0.5 + 0.5 * np.tanh(distance / softness)
    return inside


def _ellipse(y: Field, x: Field, centre_y: float, centre_x: float, radius_y: float, radius_x: float) -> Field:
    """Measure the squared distance from an ellipse's centre; it is 1 on the rim."""
    squared: Field = ((y - centre_y) / radius_y) ** 2 + ((x - centre_x) / radius_x) ** 2
    return squared


def _bump(y: Field, x: Field, centre_y: float, centre_x: float, radius_y: float, radius_x: float) -> Field:
    """Raise a Gaussian hill of height 1."""
    hill: Field = np.exp(-0.5 * _ellipse(y, x, centre_y, centre_x, radius_y, radius_x))
    return hill


def _lungs(anatomy: Anatomy, y: Field, x: Field) -> Field:
    """How much of each pixel is lung, 0 to 1."""
    middle, half = (LUNG_TOP + LUNG_BOTTOM) / 2, (LUNG_BOTTOM - LUNG_TOP) / 2
    side: Field = np.abs(x)
    oval = _step(1 - _ellipse(y, side, middle, anatomy.lung_gap, half, anatomy.lung_width), 0.08)
    dome: Field = LUNG_BOTTOM - 0.06 - anatomy.liver * (x < 0) + 2.5 * (side - anatomy.lung_gap) ** 2
    return oval * _step(dome - y, 0.012)


def _ribs(anatomy: Anatomy, y: Field, x: Field) -> Field:
    height = y - 0.8 * (np.abs(x) - 0.1) ** 2
    wave = np.sin(2 * math.pi * anatomy.rib_count * height + anatomy.rib_phase)
    ribs: Field = anatomy.rib_contrast * np.maximum(wave, 0) ** 2
    return ribs


def _opacity(blob: Blob, y: Field, x: Field) -> Field:
    """Draw a soft ellipse; the harder it is, the flatter its top and the sharper its rim."""
    cos, sin = math.cos(blob.angle), math.sin(blob.angle)
    down, right = y - blob.y, x - blob.x
    rim = _ellipse(cos * down - sin * right, cos * right + sin * down, 0, 0, blob.radius * blob.flatness, blob.radius)
    opacity: Field = blob.contrast * np.exp(-0.7 * rim**blob.hardness)
    return opacity


def _mottle(seed: int, rows: int, columns: int) -> Field:
    """Vessel-like mottle without a preferred place: smooth noise of two sizes, mean 0 and variance 1.

    Summed by einsum, which has no threads: two processes' BLAS threads would fight over the same cores. It runs
    along what lies together, which is three times as fast.
    """
    rng = np.random.default_rng(seed)
    mottle: Field = np.zeros((rows, columns), np.float32)
    for knots in (20, 40):
        values = rng.standard_normal((knots, knots), np.float32)
        tall = np.einsum("kr,km->rm", _interpolation(rows, knots), values)
        mottle += np.einsum("rm,mc->rc", tall, _interpolation(columns, knots))
    mottle /= math.sqrt(2)
    return mottle


@lru_cache(maxsize=16)
def _interpolation(length: int, knots: int) -> NDArray[np.float32]:
    """Weights (knots, length) that spread knot values smoothly; columns of unit norm keep the variance of noise."""
    at = np.linspace(0, knots - 1, length, dtype=np.float32)[None, :]
    weights: Field = np.exp(-0.5 * ((at - np.arange(knots, dtype=np.float32)[:, None]) / 0.7) ** 2)
    weights /= np.linalg.norm(weights, axis=0, keepdims=True)
    return weights
