"""What each label looks like in the lungs of a phantom: attenuation that its finding adds, [GRID, GRID]."""

from collections.abc import Callable

import numpy as np

from trainer.data.phantom.chest import Array, Chest, bump, cloud, soft_step, wall_width


def _patch(chest: Chest, side: float, height: float, size: float, rng: np.random.Generator) -> Array:
    """A ragged blob in 0..1 around a point of the chest, up to 1.4 times as wide as `size` and .7 times as high."""
    radii = size * rng.uniform(0.8, 1.4), size * rng.uniform(0.5, 0.9)
    distance = np.hypot((chest.side - side) / radii[0], (chest.height - height) / radii[1])
    return soft_step(1 - distance + 0.45 * cloud(rng, 0.08), 0.22)


def _normal(chest: Chest, rng: np.random.Generator) -> Array:
    return np.zeros_like(chest.lungs)


def _tuberculosis(chest: Chest, rng: np.random.Generator) -> Array:
    """Apical: a mottled infiltrate or a thick-walled cavity, at times on both sides."""
    total = np.zeros_like(chest.lungs)
    for sign in rng.permutation([-1, 1])[: rng.choice([1, 2], p=[0.65, 0.35])]:
        side, height = sign * rng.uniform(0.33, 0.62), rng.uniform(0.16, 0.36)
        if rng.random() < 0.4:
            radius = rng.uniform(0.08, 0.15)
            distance = np.hypot(chest.side - side, (chest.height - height) * 1.5) / radius + 0.12 * cloud(rng, 0.06)
            lesion = bump(distance - 1, 0.28) + 0.25 * bump(distance, 1.6)
        else:
            mottles = 0.55 + 0.45 * soft_step(cloud(rng, 0.025), 0.25)
            lesion = _patch(chest, side, height, rng.uniform(0.16, 0.2), rng) * mottles
        total = np.maximum(total, lesion)
    return total * rng.uniform(0.26, 0.60)


def _covid(chest: Chest, rng: np.random.Generator) -> Array:
    """Several hazy patches on both sides, near the wall, more below than above."""
    total = np.zeros_like(chest.lungs)
    for sign in (-1, 1):
        for _ in range(rng.integers(2, 5)):
            height = rng.triangular(0.25, 0.75, 0.95)
            side = sign * wall_width(height) * rng.uniform(0.72, 0.92)
            total = np.maximum(total, _patch(chest, side, height, rng.uniform(0.15, 0.2), rng))
    return total * (0.35 + 0.65 * np.clip(np.abs(chest.side), 0, 1)) * rng.uniform(0.26, 0.55)


def _pneumonia(chest: Chest, rng: np.random.Generator) -> Array:
    """One lobe filled: dense, one-sided, with a sharp fissure above or below."""
    side, direction = rng.choice([-1, 1]) * rng.uniform(0.38, 0.60), rng.choice([1, -1], p=[0.65, 0.35])
    height = rng.uniform(0.62, 0.82) if direction > 0 else rng.uniform(0.22, 0.40)
    fissure = height - 0.15 * direction + 0.15 * (np.abs(chest.side) - 0.4)
    lobe = _patch(chest, side, height, rng.uniform(0.25, 0.3), rng)
    return lobe * soft_step((chest.height - fissure) * direction, 0.02) * rng.uniform(0.38, 0.75)


def _opacity(chest: Chest, rng: np.random.Generator) -> Array:
    """An opacity without a pattern of its own: one or two patches anywhere."""
    total = np.zeros_like(chest.lungs)
    for _ in range(rng.integers(1, 3)):
        side, height = rng.choice([-1, 1]) * rng.uniform(0.28, 0.62), rng.uniform(0.2, 0.85)
        total = np.maximum(total, _patch(chest, side, height, rng.uniform(0.15, 0.2), rng))
    return total * rng.uniform(0.32, 0.65)


def _viral(chest: Chest, rng: np.random.Generator) -> Array:
    """Diffuse: streaks and haze through both lungs, densest around the hila."""
    streaks = soft_step(0.22 - np.abs(cloud(rng, 0.035)), 0.08)
    central = 0.35 + 0.65 * bump(np.abs(chest.side) - 0.3, 0.28) * bump(chest.height - 0.55, 0.35)
    return (0.5 + 0.7 * streaks) * central * rng.uniform(0.22, 0.48)


FINDINGS: dict[str, Callable[[Chest, np.random.Generator], Array]] = {
    "Normal": _normal,
    "Tuberculosis": _tuberculosis,
    "COVID": _covid,
    "Covid": _covid,
    "Lung_Opacity": _opacity,
    "Pneumonia": _pneumonia,
    "Viral Pneumonia": _viral,
}
