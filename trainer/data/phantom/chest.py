"""A healthy chest of smooth shapes, each patient's different. Drawn on a coarse grid and enlarged to a film."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

GRID = 160  # pixels along a side
Array = np.ndarray


def soft_step(value: Array, softness: float) -> Array:
    """0 below 0, 1 above, with a soft edge."""
    ramp = np.clip(value / (5 * softness) + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def bump(value: Array, width: float) -> Array:
    """A Gaussian: 1 at 0."""
    return np.exp(-0.5 * (value / width) ** 2)


def cloud(rng: np.random.Generator, scale: float) -> Array:
    """Smooth noise with features of about `scale` of the image, in -1..1."""
    noise = gaussian_filter(rng.standard_normal((GRID, GRID)).astype(np.float32), scale * GRID / 2)
    return np.tanh(noise / noise.std())


def wall_width(height: Array) -> Array:
    """Half-width of the rib cage by height: a rounded apex, widest near the base."""
    return 0.97 * (1 - np.clip(1 - height / 0.75, 0, 1) ** 2.3) ** 0.62


@dataclass(frozen=True)
class Chest:
    """What absorbs (log scale) and where the lungs are: all [GRID, GRID]."""

    attenuation: Array
    lungs: Array  # 0..1, both lungs
    side: Array  # signed distance from the midline, in half-widths: -1 left of the image, +1 right
    height: Array  # 0 at the apex, 1 at the dome of the diaphragm

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Chest":
        """Another patient with each state of the generator."""
        y, x = (np.mgrid[0:GRID, 0:GRID].astype(np.float32) + 0.5) / GRID
        tilt = rng.normal(0, 0.03)
        x, y = 2 * x - 1 - 2 * tilt * (y - 0.5) + 0.02 * cloud(rng, 0.4), y + tilt * (x - 0.5) + 0.01 * cloud(rng, 0.4)
        top, bottom = rng.uniform(0.08, 0.15), rng.uniform(0.70, 0.82)
        side, height = (x - rng.normal(0, 0.03)) / rng.uniform(0.68, 0.86), (y - top) / (bottom - top)
        lungs = np.maximum(_lung(side, height, rng), _lung(-side, height - 0.03, rng))
        shoulders = 0.3 + 0.95 * soft_step(y - rng.uniform(0.07, 0.13), 0.035)
        body = soft_step(shoulders - np.abs(side), 0.03)
        attenuation = 1.25 + 0.12 * cloud(rng, 0.4) + 0.25 * bump(side, 0.7) + 0.5 * soft_step(height - 1.04, 0.05)
        attenuation += _ribs(side, height, rng) - lungs * rng.uniform(0.80, 1.05)
        attenuation += _midline(side, height, rng) + lungs * _vessels(side, height, rng)
        return cls(body * attenuation, lungs, side, height)


def _lung(across: Array, height: Array, rng: np.random.Generator) -> Array:
    """One lung field: chest wall, mediastinal edge, domed diaphragm with its outer recess."""
    inner = 0.16 + 0.02 * rng.standard_normal() + 0.05 * bump(height - 0.85, 0.2)
    dome = rng.uniform(0.90, 0.98) + 0.5 * np.clip(np.abs(across - 0.5) - 0.05, 0, None) ** 1.7
    sides = soft_step(wall_width(height) - across, 0.011) * soft_step(across - inner, 0.02)
    return sides * soft_step(dome - height, 0.010) * soft_step(height, 0.011)


def _midline(side: Array, height: Array, rng: np.random.Generator) -> Array:
    """Spine, air in the trachea, aortic arch, and a heart that lies to the patient's left."""
    spine = rng.uniform(0.22, 0.36) * bump(side, 0.09) + 0.30 * bump(side, 0.16)
    trachea = 0.30 * bump(side, 0.05) * soft_step(0.34 - height, 0.03)
    wide, low = rng.uniform(0.33, 0.45), rng.uniform(0.76, 0.84)
    heart = soft_step(1 - ((side - 0.14) / wide) ** 2 - ((height - low) / 0.25) ** 2, 0.07)
    arch = soft_step(1 - ((side - 0.12) / rng.uniform(0.11, 0.17)) ** 2 - ((height - 0.3) / 0.09) ** 2, 0.15)
    below = 1 - 0.8 * soft_step(height - 1.0, 0.03)  # there the liver hides the heart
    return spine - trachea + rng.uniform(0.45, 0.65) * np.maximum(heart, 0.65 * arch) * below


def _ribs(side: Array, height: Array, rng: np.random.Generator) -> Array:
    """Ribs, dense behind and faint in front, and the clavicles."""
    across = np.abs(side)
    gap, first, strength = rng.uniform(0.100, 0.115), rng.uniform(-0.03, 0.02), rng.uniform(0.16, 0.28)
    back = height - first + 0.10 * np.sin(np.pi * np.clip(across, 0, 1) ** 0.8) - 0.24 * across**2.2
    front = height - first - 0.24 + 0.26 * (across - 0.2) * (1.6 - across)
    behind, before = (soft_step(np.cos(2 * np.pi * distance / gap) - 0.2, 0.12) for distance in (back, front))
    ribs = strength * (behind + 0.3 * before * (across > 0.35)) * soft_step(height + 0.06, 0.02)
    clavicle = bump(height - rng.uniform(0.07, 0.13) + rng.uniform(0.06, 0.12) * across, 0.018)
    return (
        (ribs + 0.2 * clavicle) * soft_step(across - 0.10, 0.03) * soft_step(wall_width(height) + 0.03 - across, 0.01)
    )


def _vessels(side: Array, height: Array, rng: np.random.Generator) -> Array:
    """Hila, and vessels that run from them and thin out toward the wall."""
    total = np.zeros_like(side)
    for sign in (-1, 1):
        across, down = side * sign - rng.uniform(0.20, 0.26), height - rng.uniform(0.44, 0.52)
        total += rng.uniform(0.12, 0.26) * bump(across, 0.08) * bump(down, 0.10)
        for angle in rng.uniform(-1.2, 1.25, size=9):
            forward, off = across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)
            along = np.clip(forward / rng.uniform(0.45, 0.85), 0, 1)
            bend = rng.normal(0, 0.12) * along**2
            total += 0.16 * bump(off - bend, 0.012) * (1 - along) * np.clip(forward * 8, 0, 1)
    return total * rng.uniform(0.7, 1.25)
