"""Smooth shapes on a square grid, from which phantoms are drawn."""

from functools import cache

import numpy as np
from scipy.ndimage import zoom

SIZE = 320  # pixels of a phantom
GRID = 160  # anatomy is smooth: it is drawn on this grid and enlarged; blur, grain and marker are the film's
Array = np.ndarray


def grid() -> tuple[Array, Array]:
    """x in -1..1 (left to right), y in 0..1 (top to bottom)."""
    y, x = np.mgrid[0:GRID, 0:GRID].astype(np.float32)
    return (x + 0.5) / GRID * 2 - 1, (y + 0.5) / GRID


def enlarge(drawing: Array) -> Array:
    """From the grid to the size of a film."""
    return zoom_square(drawing.astype(np.float32), SIZE / GRID, order=1)


def zoom_square(coarse: Array, factor: float, order: int) -> Array:
    """SciPy's `zoom` of a square array, which is linear and alike along both axes: two small matrix products."""
    spline = _spline(len(coarse), factor, order)
    return np.einsum(
        "ik,jk->ij", np.einsum("ij,jk->ik", spline, coarse), spline
    )  # BLAS would start threads in each process


@cache
def _spline(length: int, factor: float, order: int) -> Array:
    return zoom(np.eye(length, dtype=np.float32), (factor, 1), order=order)


def soft_step(value: Array, softness: float) -> Array:
    """A soft step: 0 below 0, 1 above."""
    ramp = np.clip(value * (1 / (5 * softness)) + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def bump(value: Array, width: Array | float) -> Array:
    """A Gaussian: 1 at 0."""
    return np.exp(-0.5 * (value / width) ** 2)


def ellipse(
    side: Array, height: Array, center: tuple[float, float], radii: tuple[float, float], tilt: float = 0.0
) -> Array:
    """1 at the centre, 0 on the rim, negative outside."""
    across, down = side - center[0], height - center[1]
    turned = across * np.cos(tilt) + down * np.sin(tilt)
    raised = down * np.cos(tilt) - across * np.sin(tilt)
    return 1 - (turned / radii[0]) ** 2 - (raised / radii[1]) ** 2


def cloud(rng: np.random.Generator, scale: float) -> Array:
    """Smooth noise with features of about `scale` of the image, in -1..1."""
    cells = max(2, round(1 / scale))
    coarse = rng.standard_normal((cells + 3, cells + 3)).astype(np.float32)
    order = 3 if cells < 12 else 1
    return np.tanh(zoom_square(coarse, GRID / cells, order)[:GRID, :GRID])
