"""What each label looks like in the lungs of a phantom."""

from collections.abc import Callable

import numpy as np

from trainer.data.phantom.anatomy import Chest, wall_width
from trainer.data.phantom.shapes import Array, bump, cloud, soft_step


def _patch(chest: Chest, side: float, height: float, radii: tuple[float, float], rng: np.random.Generator) -> Array:
    """A ragged blob in 0..1 around a point of the chest."""
    distance = np.sqrt(((chest.side - side) / radii[0]) ** 2 + ((chest.height - height) / radii[1]) ** 2)
    return soft_step(1 - distance + 0.45 * cloud(rng, 0.08), 0.22)


def _normal(chest: Chest, rng: np.random.Generator) -> Array:
    return np.zeros_like(chest.attenuation)


def _tuberculosis(chest: Chest, rng: np.random.Generator) -> Array:
    """Apical: a mottled infiltrate or a thick-walled cavity, at times on both sides."""
    total = np.zeros_like(chest.attenuation)
    for sign in rng.permutation([-1, 1])[: rng.choice([1, 2], p=[0.65, 0.35])]:
        side, height = sign * rng.uniform(0.33, 0.62), rng.uniform(0.16, 0.36)
        if rng.random() < 0.4:
            total = np.maximum(total, _cavity(chest, side, height, rng))
        else:
            blob = _patch(chest, side, height, (rng.uniform(0.14, 0.27), rng.uniform(0.09, 0.17)), rng)
            mottled = 0.55 + 0.45 * soft_step(cloud(rng, 0.025), 0.25)
            total = np.maximum(total, blob * mottled)
    return total * chest.lungs * rng.uniform(0.26, 0.60)


def _cavity(chest: Chest, side: float, height: float, rng: np.random.Generator) -> Array:
    radius = rng.uniform(0.08, 0.15)
    distance = np.hypot(chest.side - side, (chest.height - height) * 1.5) / radius + 0.12 * cloud(rng, 0.06)
    return bump(distance - 1, 0.28) + 0.25 * bump(distance, 1.6)


def _covid(chest: Chest, rng: np.random.Generator) -> Array:
    """Several hazy patches on both sides, near the wall, more below than above."""
    total = np.zeros_like(chest.attenuation)
    for sign in (-1, 1):
        for _ in range(rng.integers(2, 5)):
            height = float(rng.triangular(0.25, 0.75, 0.95))
            place = sign * float(wall_width(np.array(height))) * rng.uniform(0.72, 0.92)
            total = np.maximum(
                total, _patch(chest, place, height, (rng.uniform(0.12, 0.22), rng.uniform(0.09, 0.18)), rng)
            )
    haze = 0.8 + 0.2 * cloud(rng, 0.03)
    return total * haze * (0.35 + 0.65 * chest.edge) * chest.lungs * rng.uniform(0.26, 0.55)


def _pneumonia(chest: Chest, rng: np.random.Generator) -> Array:
    """One lobe filled: dense, one-sided, with a sharp fissure above or below."""
    sign, lower = rng.choice([-1, 1]), rng.random() < 0.65
    height, side = (rng.uniform(0.62, 0.82) if lower else rng.uniform(0.22, 0.40)), sign * rng.uniform(0.38, 0.60)
    blob = _patch(chest, side, height, (rng.uniform(0.24, 0.36), rng.uniform(0.16, 0.24)), rng)
    fissure = height + (-0.15 if lower else 0.15) + 0.15 * (np.abs(chest.side) - 0.4)
    cut = soft_step((chest.height - fissure) if lower else (fissure - chest.height), 0.02)
    return blob * cut * chest.lungs * (0.9 + 0.1 * cloud(rng, 0.04)) * rng.uniform(0.38, 0.75)


def _opacity(chest: Chest, rng: np.random.Generator) -> Array:
    """An opacity without a pattern of its own: one or two patches anywhere."""
    total = np.zeros_like(chest.attenuation)
    for _ in range(rng.integers(1, 3)):
        side, height = rng.choice([-1, 1]) * rng.uniform(0.28, 0.62), rng.uniform(0.2, 0.85)
        total = np.maximum(total, _patch(chest, side, height, (rng.uniform(0.12, 0.24), rng.uniform(0.08, 0.17)), rng))
    return total * chest.lungs * rng.uniform(0.32, 0.65)


def _viral(chest: Chest, rng: np.random.Generator) -> Array:
    """Diffuse: streaks and haze through both lungs, densest around the hila."""
    streaks = soft_step(0.22 - np.abs(cloud(rng, 0.035)), 0.08) + 0.6 * soft_step(0.2 - np.abs(cloud(rng, 0.02)), 0.08)
    central = 0.35 + 0.65 * bump(np.abs(chest.side) - 0.3, 0.28) * bump(chest.height - 0.55, 0.35)
    return (0.5 * streaks + 0.5) * central * chest.lungs * rng.uniform(0.22, 0.48)


FINDINGS: dict[str, Callable[[Chest, np.random.Generator], Array]] = {
    "Normal": _normal,
    "Tuberculosis": _tuberculosis,
    "COVID": _covid,
    "Covid": _covid,
    "Lung_Opacity": _opacity,
    "Pneumonia": _pneumonia,
    "Viral Pneumonia": _viral,
}
