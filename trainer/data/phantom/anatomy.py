"""A healthy chest: lungs, heart, bones and vessels, each patient's different."""

from dataclasses import dataclass

import numpy as np

from trainer.data.phantom.shapes import Array, bump, cloud, ellipse, grid, soft_step


@dataclass(frozen=True)
class Chest:
    """A healthy chest: what absorbs (log scale), and where the lungs are."""

    attenuation: Array
    lungs: Array  # 0..1, both lungs
    side: Array  # signed distance from the midline, in half-widths: -1 left of the image, +1 right
    height: Array  # 0 at the apex, 1 at the dome of the diaphragm
    edge: Array  # 0 at the mediastinum, 1 at the chest wall

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Chest":
        """Another patient with each state of the generator."""
        x, y = _warp(*grid(), rng)
        middle, half = rng.normal(0, 0.03), rng.uniform(0.70, 0.84)
        top, bottom = rng.uniform(0.08, 0.15), rng.uniform(0.70, 0.82)
        side, height = (x - middle) / half, (y - top) / (bottom - top)
        lungs = np.maximum(_lung(side, height, -1, rng), _lung(side, height, 1, rng))
        edge = np.clip((np.abs(side) - 0.2) / np.maximum(wall_width(height) - 0.2, 0.1), 0, 1)
        body = _body(np.abs(x - middle), y, half, rng)
        attenuation = body * (1.25 + 0.12 * cloud(rng, 0.4) + 0.25 * bump(side, 0.7))
        attenuation += body * (0.50 * soft_step(height - 1.04, 0.05) - _stomach(side, height, rng))
        attenuation -= lungs * rng.uniform(0.80, 1.05) * (1 - 0.25 * soft_step(height - 0.75, 0.12))
        attenuation += _spine(side, y, rng) + _heart(side, height, rng)
        attenuation += _bones(side, height, body, rng) + _vessels(side, height, lungs, rng)
        return cls(attenuation.astype(np.float32), lungs, side, height, edge)


def _warp(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Another patient's posture: tilt, scale and a smooth bend."""
    angle, scale = rng.normal(0, 0.03), rng.uniform(0.93, 1.07)
    turned = x * np.cos(angle) - (y - 0.5) * 2 * np.sin(angle)
    raised = (y - 0.5) * np.cos(angle) + x * np.sin(angle) / 2
    return turned / scale + 0.02 * cloud(rng, 0.4), raised / scale + 0.5 + 0.012 * cloud(rng, 0.4)


def _body(across: Array, y: Array, half: float, rng: np.random.Generator) -> Array:
    """Neck, shoulders and trunk; the armpit lies between arm and trunk."""
    shoulder = rng.uniform(0.02, 0.08)
    width = 0.26 + 0.95 * soft_step(y - shoulder - 0.05, 0.035)
    trunk = half * rng.uniform(1.12, 1.25) + 0.06 * (y - 0.5) ** 2
    armpit = soft_step(across - trunk, 0.02) * soft_step(y - rng.uniform(0.28, 0.42) - 0.35 * (across - trunk), 0.03)
    return soft_step(width - across, 0.03) * (1 - rng.uniform(0.6, 1.0) * armpit)


def wall_width(height: Array) -> Array:
    """Half-width of the rib cage by height: a rounded apex, widest near the base."""
    rise = 1 - np.clip(1 - height / 0.75, 0, 1) ** 2.3
    return 0.97 * np.clip(rise, 0, 1) ** 0.62


def _lung(side: Array, height: Array, sign: int, rng: np.random.Generator) -> Array:
    """One lung field: wall, mediastinal edge, domed diaphragm with its outer recess."""
    across = side * sign
    inner = 0.16 + 0.02 * rng.standard_normal() + 0.05 * bump(height - 0.85, 0.2)
    dome_top = rng.uniform(0.90, 0.98) + (0.03 if sign > 0 else 0.0)
    dome = dome_top + 0.5 * np.clip(np.abs(across - 0.5) - 0.05, 0, None) ** 1.7
    softness = rng.uniform(0.008, 0.014)
    sides = soft_step(wall_width(height) - across, softness) * soft_step(across - inner, 0.02)
    return sides * soft_step(dome - height, 0.010) * soft_step(height, softness)


def _spine(side: Array, y: Array, rng: np.random.Generator) -> Array:
    period, phase = rng.uniform(0.06, 0.075), rng.uniform(0, 1)
    discs = 0.85 + 0.15 * np.cos(2 * np.pi * (y / period + phase))
    trachea = 0.30 * bump(side - 0.01, 0.05) * soft_step(0.34 - y, 0.03)
    return rng.uniform(0.22, 0.36) * bump(side, 0.09) * discs + 0.30 * bump(side, 0.16) - trachea


def _heart(side: Array, height: Array, rng: np.random.Generator) -> Array:
    """Ventricles down to the patient's left, right atrium, aortic arch."""
    wide, low = rng.uniform(0.36, 0.50), rng.uniform(0.78, 0.86)
    ventricle = soft_step(ellipse(side, height, (0.20, low), (wide, 0.24), 0.5), 0.07)
    atrium = soft_step(ellipse(side, height, (-0.06, low), (0.25, 0.24)), 0.07)
    arch = soft_step(ellipse(side, height, (0.12, 0.30), (rng.uniform(0.11, 0.17), 0.09)), 0.15)
    vessels = soft_step(ellipse(side, height, (0.06, 0.50), (0.20, 0.26)), 0.15)
    shadow = np.maximum.reduce([ventricle, atrium, 0.65 * arch, 0.6 * vessels])
    return (
        rng.uniform(0.45, 0.65) * shadow * (1 - 0.8 * soft_step(height - 1.0, 0.03))
    )  # below the dome the liver hides it


def _stomach(side: Array, height: Array, rng: np.random.Generator) -> Array:
    """Air under the left dome."""
    center, radii = (
        (rng.uniform(0.35, 0.6), rng.uniform(1.16, 1.24)),
        (rng.uniform(0.12, 0.25), rng.uniform(0.05, 0.10)),
    )
    return rng.choice([0.0, 0.35]) * soft_step(ellipse(side, height, center, radii), 0.1)


def _bones(side: Array, height: Array, body: Array, rng: np.random.Generator) -> Array:
    """Ribs (dense behind, faint in front), their bright outer turn, the clavicles and the shoulder blades."""
    total = np.zeros_like(side)
    across = np.abs(side)
    wall = wall_width(height)
    strength, gap, first = rng.uniform(0.16, 0.28), rng.uniform(0.100, 0.115), rng.uniform(-0.03, 0.02)
    arch, fall = 0.10 * np.sin(np.pi * np.clip(across, 0, 1) ** 0.8), 0.24 * across**2.2
    slope = 0.24 - 0.26 * (across - 0.2) * (1.6 - across)
    for number in range(11):
        back = height - (first + gap * number - arch + fall)
        front = height - (first + gap * number + slope)
        width = rng.uniform(0.021, 0.026)
        total += strength * _rib(back, width) + 0.3 * strength * _rib(front, 1.4 * width) * (across > 0.35)
    total *= soft_step(across - 0.10, 0.03) * soft_step(wall + 0.03 - across, 0.012) * soft_step(height + 0.06, 0.02)
    total += (
        0.55
        * strength
        * bump(across - wall - 0.01, 0.03)
        * soft_step(height - 0.1, 0.05)
        * soft_step(1.25 - height, 0.05)
    )
    tilt, place = rng.uniform(0.06, 0.12), rng.uniform(0.07, 0.13)
    clavicle = height - (place - tilt * (across - 0.1) + 0.02 * np.sin(across * 6))
    total += 0.26 * _rib(clavicle, 0.024) * soft_step(across - 0.10, 0.02) * soft_step(1.0 - across, 0.05)
    blade = ellipse(across, height, (1.0, 0.28), (0.20, 0.32), -0.35)
    return (total + rng.uniform(0.06, 0.16) * soft_step(blade, 0.08)) * body


def _rib(distance: Array, width: float) -> Array:
    """A tube: its two cortical edges absorb more than its middle."""
    relative = np.abs(distance) * (1 / width)
    return (0.6 + 0.5 * np.clip(relative, 0, 1) ** 2) * soft_step(1 - relative, 0.12)


def _vessels(side: Array, height: Array, lungs: Array, rng: np.random.Generator) -> Array:
    """Hila, and vessels that branch from them and thin out toward the wall."""
    total = np.zeros_like(side)
    for sign in (-1, 1):
        place = (sign * rng.uniform(0.20, 0.26), rng.uniform(0.44, 0.52))
        total += rng.uniform(0.12, 0.26) * bump(side - place[0], 0.08) * bump(height - place[1], 0.10)
        inward, down = (side - place[0]) * sign, height - place[1]
        for angle in rng.uniform(-1.2, 1.25, size=9):
            bend, length = rng.normal(0, 0.35), rng.uniform(0.45, 0.85)
            forward = inward * np.cos(angle) + down * np.sin(angle)
            off = down * np.cos(angle) - inward * np.sin(angle)
            along = np.clip(forward * (1 / length), 0, 1)
            width = 0.015 * (1 - along) + 0.006
            total += 0.16 * bump(off - bend * along**2 * length * 0.5, width) * (1 - along) * np.clip(forward * 8, 0, 1)
    return total * (0.15 + 0.85 * lungs) * rng.uniform(0.7, 1.25)
