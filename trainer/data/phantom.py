"""Phantoms: procedurally drawn chest radiographs with a known finding and its mask. They are drawings, not patients.

A phantom is a sum of attenuations (soft tissue, spine, heart, ribs, vessels, abdomen) seen through a film: exposure,
contrast, blur, grain, border and marker vary from picture to picture and never with the label.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates, zoom
from tqdm.auto import tqdm

from trainer.data.manifest import available_cores
from trainer.errors import UsageError
from trainer.tasks import TASKS

SIZE = 320
GRID = 160  # anatomy is smooth: it is drawn on this grid and enlarged; blur, grain and marker are the film's
Array = np.ndarray


@dataclass(frozen=True)
class Phantom:
    """`pixels` uint8 [320, 320] and `mask` bool [320, 320], True where the finding is."""

    pixels: Array
    mask: Array


def draw_phantom(label: str, rng: np.random.Generator) -> Phantom:
    """Draw one phantom of a task's label; the same generator state gives the same picture."""
    chest = _Chest.draw(rng)
    opacity = FINDINGS[label](chest, rng)
    mask = _enlarge(opacity) > 0.25 * max(float(opacity.max()), 1e-6)
    return _expose(_enlarge(chest.attenuation + opacity), mask, rng)


def write_phantoms(output: Path, task: str, count: int, seed: int) -> dict[str, int]:
    """Write OUTPUT/<Label>/*.png and, for each finding, its mask in OUTPUT_masks/<Label>/*.png.

    Args:
        output: a folder that does not exist or is empty.
        count: images in all, spread evenly over the labels.

    Returns:
        Images written for each label.

    Raises:
        UsageError: an unknown task, fewer images than labels, or a folder that holds something.
    """
    if task not in TASKS:
        raise UsageError(f"no task {task!r}; there are: {', '.join(TASKS)}")
    labels = TASKS[task].labels
    if count < len(labels):
        raise UsageError(f"--count {count}: task {task} has {len(labels)} labels, so at least {len(labels)} images")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output}: holds something already; give a new folder")
    jobs = [(output, task, labels[index % len(labels)], index // len(labels), seed) for index in range(count)]
    for label in labels:
        (output / label).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(available_cores()) as pool:
        list(tqdm(pool.map(_write_one, jobs, chunksize=8), total=count, desc="drawing phantoms", unit="image"))
    return {label: sum(job[2] == label for job in jobs) for label in labels}


def _write_one(job: tuple[Path, str, str, int, int]) -> None:
    output, task, label, number, seed = job
    place = (list(TASKS).index(task), TASKS[task].labels.index(label))
    phantom = draw_phantom(label, np.random.default_rng([seed, *place, number]))
    name = f"phantom-{number:05d}.png"
    Image.fromarray(phantom.pixels).save(output / label / name)
    if phantom.mask.any():
        masks = output.with_name(f"{output.name}_masks") / label
        masks.mkdir(parents=True, exist_ok=True)
        Image.fromarray(phantom.mask.astype(np.uint8) * 255).save(masks / name)


def _grid() -> tuple[Array, Array]:
    """x in -1..1 (left to right), y in 0..1 (top to bottom)."""
    y, x = np.mgrid[0:GRID, 0:GRID].astype(np.float32)
    return (x + 0.5) / GRID * 2 - 1, (y + 0.5) / GRID


def _enlarge(drawing: Array) -> Array:
    return _spread(drawing.astype(np.float32), SIZE / GRID, order=1)


def _spread(coarse: Array, factor: float, order: int) -> Array:
    """SciPy's `zoom` of a square array: it is linear and the same along both axes, so two small matrix products do it."""
    spline = _spline(len(coarse), factor, order)
    return np.einsum("ik,jk->ij", np.einsum("ij,jk->ik", spline, coarse), spline)  # BLAS would start threads in each process


@cache
def _spline(length: int, factor: float, order: int) -> Array:
    return zoom(np.eye(length, dtype=np.float32), (factor, 1), order=order)


def _step(value: Array, softness: float) -> Array:
    """A soft step: 0 below 0, 1 above."""
    ramp = np.clip(value * (1 / (5 * softness)) + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _bump(value: Array, width: Array | float) -> Array:
    return np.exp(-0.5 * (value / width) ** 2)


def _ellipse(side: Array, height: Array, center: tuple[float, float], radii: tuple[float, float], tilt: float = 0.0) -> Array:
    """1 at the centre, 0 on the rim, negative outside."""
    across, down = side - center[0], height - center[1]
    turned = across * np.cos(tilt) + down * np.sin(tilt)
    raised = down * np.cos(tilt) - across * np.sin(tilt)
    return 1 - (turned / radii[0]) ** 2 - (raised / radii[1]) ** 2


def _cloud(rng: np.random.Generator, scale: float) -> Array:
    """Smooth noise with features of about `scale` of the picture, in -1..1."""
    cells = max(2, round(1 / scale))
    coarse = rng.standard_normal((cells + 3, cells + 3)).astype(np.float32)
    order = 3 if cells < 12 else 1
    return np.tanh(_spread(coarse, GRID / cells, order)[:GRID, :GRID])


@dataclass(frozen=True)
class _Chest:
    """A healthy chest: what absorbs (log scale), and where the lungs are."""

    attenuation: Array
    lungs: Array  # 0..1, both lungs
    side: Array  # signed distance from the midline, in half-widths: -1 left of the picture, +1 right
    height: Array  # 0 at the apex, 1 at the dome of the diaphragm
    edge: Array  # 0 at the mediastinum, 1 at the chest wall

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "_Chest":
        x, y = _warp(*_grid(), rng)
        middle, half = rng.normal(0, 0.03), rng.uniform(0.70, 0.84)
        top, bottom = rng.uniform(0.08, 0.15), rng.uniform(0.70, 0.82)
        side, height = (x - middle) / half, (y - top) / (bottom - top)
        lungs = np.maximum(_lung(side, height, -1, rng), _lung(side, height, 1, rng))
        edge = np.clip((np.abs(side) - 0.2) / np.maximum(_wall(height) - 0.2, 0.1), 0, 1)
        body = _body(np.abs(x - middle), y, half, rng)
        attenuation = body * (1.25 + 0.12 * _cloud(rng, 0.4) + 0.25 * _bump(side, 0.7))
        attenuation += body * (0.50 * _step(height - 1.04, 0.05) - _stomach(side, height, rng))
        attenuation -= lungs * rng.uniform(0.80, 1.05) * (1 - 0.25 * _step(height - 0.75, 0.12))
        attenuation += _spine(side, y, rng) + _heart(side, height, rng)
        attenuation += _bones(side, height, body, rng) + _vessels(side, height, lungs, rng)
        return cls(attenuation.astype(np.float32), lungs, side, height, edge)


def _warp(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Another patient's posture: tilt, scale and a smooth bend."""
    angle, scale = rng.normal(0, 0.03), rng.uniform(0.93, 1.07)
    turned = x * np.cos(angle) - (y - 0.5) * 2 * np.sin(angle)
    raised = (y - 0.5) * np.cos(angle) + x * np.sin(angle) / 2
    return turned / scale + 0.02 * _cloud(rng, 0.4), raised / scale + 0.5 + 0.012 * _cloud(rng, 0.4)


def _body(across: Array, y: Array, half: float, rng: np.random.Generator) -> Array:
    """Neck, shoulders and trunk; the armpit lies between arm and trunk."""
    shoulder = rng.uniform(0.02, 0.08)
    width = 0.26 + 0.95 * _step(y - shoulder - 0.05, 0.035)
    trunk = half * rng.uniform(1.12, 1.25) + 0.06 * (y - 0.5) ** 2
    armpit = _step(across - trunk, 0.02) * _step(y - rng.uniform(0.28, 0.42) - 0.35 * (across - trunk), 0.03)
    return _step(width - across, 0.03) * (1 - rng.uniform(0.6, 1.0) * armpit)


def _wall(height: Array) -> Array:
    """Half-width of the rib cage by height: a rounded apex, widest near the base."""
    rise = 1 - np.clip(1 - height / 0.75, 0, 1) ** 2.3
    return 0.97 * np.clip(rise, 0, 1) ** 0.62


def _lung(side: Array, height: Array, sign: int, rng: np.random.Generator) -> Array:
    """One lung field: wall, mediastinal edge, domed diaphragm with its outer recess."""
    across = side * sign
    inner = 0.16 + 0.02 * rng.standard_normal() + 0.05 * _bump(height - 0.85, 0.2)
    dome_top = rng.uniform(0.90, 0.98) + (0.03 if sign > 0 else 0.0)
    dome = dome_top + 0.5 * np.clip(np.abs(across - 0.5) - 0.05, 0, None) ** 1.7
    softness = rng.uniform(0.008, 0.014)
    return _step(_wall(height) - across, softness) * _step(across - inner, 0.02) * _step(dome - height, 0.010) * _step(height, softness)


def _spine(side: Array, y: Array, rng: np.random.Generator) -> Array:
    period, phase = rng.uniform(0.06, 0.075), rng.uniform(0, 1)
    discs = 0.85 + 0.15 * np.cos(2 * np.pi * (y / period + phase))
    trachea = 0.30 * _bump(side - 0.01, 0.05) * _step(0.34 - y, 0.03)
    return rng.uniform(0.22, 0.36) * _bump(side, 0.09) * discs + 0.30 * _bump(side, 0.16) - trachea


def _heart(side: Array, height: Array, rng: np.random.Generator) -> Array:
    """Ventricles down to the patient's left, right atrium, aortic arch."""
    wide, low = rng.uniform(0.36, 0.50), rng.uniform(0.78, 0.86)
    ventricle = _step(_ellipse(side, height, (0.20, low), (wide, 0.24), 0.5), 0.07)
    atrium = _step(_ellipse(side, height, (-0.06, low), (0.25, 0.24)), 0.07)
    arch = _step(_ellipse(side, height, (0.12, 0.30), (rng.uniform(0.11, 0.17), 0.09)), 0.15)
    vessels = _step(_ellipse(side, height, (0.06, 0.50), (0.20, 0.26)), 0.15)
    shadow = np.maximum.reduce([ventricle, atrium, 0.65 * arch, 0.6 * vessels])
    return rng.uniform(0.45, 0.65) * shadow * (1 - 0.8 * _step(height - 1.0, 0.03))  # below the dome the liver hides it


def _stomach(side: Array, height: Array, rng: np.random.Generator) -> Array:
    """Air under the left dome."""
    center, radii = (rng.uniform(0.35, 0.6), rng.uniform(1.16, 1.24)), (rng.uniform(0.12, 0.25), rng.uniform(0.05, 0.10))
    return rng.choice([0.0, 0.35]) * _step(_ellipse(side, height, center, radii), 0.1)


def _bones(side: Array, height: Array, body: Array, rng: np.random.Generator) -> Array:
    """Ribs (dense behind, faint in front), their bright outer turn, the clavicles and the shoulder blades."""
    total = np.zeros_like(side)
    across = np.abs(side)
    wall = _wall(height)
    strength, gap, first = rng.uniform(0.16, 0.28), rng.uniform(0.100, 0.115), rng.uniform(-0.03, 0.02)
    arch, fall = 0.10 * np.sin(np.pi * np.clip(across, 0, 1) ** 0.8), 0.24 * across**2.2
    slope = 0.24 - 0.26 * (across - 0.2) * (1.6 - across)
    for number in range(11):
        back = height - (first + gap * number - arch + fall)
        front = height - (first + gap * number + slope)
        width = rng.uniform(0.021, 0.026)
        total += strength * _rib(back, width) + 0.3 * strength * _rib(front, 1.4 * width) * (across > 0.35)
    total *= _step(across - 0.10, 0.03) * _step(wall + 0.03 - across, 0.012) * _step(height + 0.06, 0.02)
    total += 0.55 * strength * _bump(across - wall - 0.01, 0.03) * _step(height - 0.1, 0.05) * _step(1.25 - height, 0.05)
    tilt, place = rng.uniform(0.06, 0.12), rng.uniform(0.07, 0.13)
    clavicle = height - (place - tilt * (across - 0.1) + 0.02 * np.sin(across * 6))
    total += 0.26 * _rib(clavicle, 0.024) * _step(across - 0.10, 0.02) * _step(1.0 - across, 0.05)
    blade = _ellipse(across, height, (1.0, 0.28), (0.20, 0.32), -0.35)
    return (total + rng.uniform(0.06, 0.16) * _step(blade, 0.08)) * body


def _rib(distance: Array, width: float) -> Array:
    """A tube: its two cortical edges absorb more than its middle."""
    relative = np.abs(distance) * (1 / width)
    return (0.6 + 0.5 * np.clip(relative, 0, 1) ** 2) * _step(1 - relative, 0.12)


def _vessels(side: Array, height: Array, lungs: Array, rng: np.random.Generator) -> Array:
    """Hila, and vessels that branch from them and thin out toward the wall."""
    total = np.zeros_like(side)
    for sign in (-1, 1):
        place = (sign * rng.uniform(0.20, 0.26), rng.uniform(0.44, 0.52))
        total += rng.uniform(0.12, 0.26) * _bump(side - place[0], 0.08) * _bump(height - place[1], 0.10)
        inward, down = (side - place[0]) * sign, height - place[1]
        for angle in rng.uniform(-1.2, 1.25, size=9):
            bend, length = rng.normal(0, 0.35), rng.uniform(0.45, 0.85)
            forward = inward * np.cos(angle) + down * np.sin(angle)
            off = down * np.cos(angle) - inward * np.sin(angle)
            along = np.clip(forward * (1 / length), 0, 1)
            width = 0.015 * (1 - along) + 0.006
            total += 0.16 * _bump(off - bend * along**2 * length * 0.5, width) * (1 - along) * np.clip(forward * 8, 0, 1)
    return total * (0.15 + 0.85 * lungs) * rng.uniform(0.7, 1.25)


def _patch(chest: _Chest, side: float, height: float, radii: tuple[float, float], rng: np.random.Generator) -> Array:
    """A ragged blob in 0..1 around a point of the chest."""
    distance = np.sqrt(((chest.side - side) / radii[0]) ** 2 + ((chest.height - height) / radii[1]) ** 2)
    return _step(1 - distance + 0.45 * _cloud(rng, 0.08), 0.22)


def _normal(chest: _Chest, rng: np.random.Generator) -> Array:
    return np.zeros_like(chest.attenuation)


def _tuberculosis(chest: _Chest, rng: np.random.Generator) -> Array:
    """Apical: a mottled infiltrate or a thick-walled cavity, at times on both sides."""
    total = np.zeros_like(chest.attenuation)
    for sign in rng.permutation([-1, 1])[: rng.choice([1, 2], p=[0.65, 0.35])]:
        side, height = sign * rng.uniform(0.33, 0.62), rng.uniform(0.16, 0.36)
        if rng.random() < 0.4:
            total = np.maximum(total, _cavity(chest, side, height, rng))
        else:
            blob = _patch(chest, side, height, (rng.uniform(0.14, 0.27), rng.uniform(0.09, 0.17)), rng)
            mottled = 0.55 + 0.45 * _step(_cloud(rng, 0.025), 0.25)
            total = np.maximum(total, blob * mottled)
    return total * chest.lungs * rng.uniform(0.26, 0.60)


def _cavity(chest: _Chest, side: float, height: float, rng: np.random.Generator) -> Array:
    radius = rng.uniform(0.08, 0.15)
    distance = np.hypot(chest.side - side, (chest.height - height) * 1.5) / radius + 0.12 * _cloud(rng, 0.06)
    return _bump(distance - 1, 0.28) + 0.25 * _bump(distance, 1.6)


def _covid(chest: _Chest, rng: np.random.Generator) -> Array:
    """Several hazy patches on both sides, near the wall, more below than above."""
    total = np.zeros_like(chest.attenuation)
    for sign in (-1, 1):
        for _ in range(rng.integers(2, 5)):
            height = float(rng.triangular(0.25, 0.75, 0.95))
            place = sign * float(_wall(np.array(height))) * rng.uniform(0.72, 0.92)
            total = np.maximum(total, _patch(chest, place, height, (rng.uniform(0.12, 0.22), rng.uniform(0.09, 0.18)), rng))
    haze = 0.8 + 0.2 * _cloud(rng, 0.03)
    return total * haze * (0.35 + 0.65 * chest.edge) * chest.lungs * rng.uniform(0.26, 0.55)


def _pneumonia(chest: _Chest, rng: np.random.Generator) -> Array:
    """One lobe filled: dense, one-sided, with a sharp fissure above or below."""
    sign, lower = rng.choice([-1, 1]), rng.random() < 0.65
    height, side = (rng.uniform(0.62, 0.82) if lower else rng.uniform(0.22, 0.40)), sign * rng.uniform(0.38, 0.60)
    blob = _patch(chest, side, height, (rng.uniform(0.24, 0.36), rng.uniform(0.16, 0.24)), rng)
    fissure = height + (-0.15 if lower else 0.15) + 0.15 * (np.abs(chest.side) - 0.4)
    cut = _step((chest.height - fissure) if lower else (fissure - chest.height), 0.02)
    return blob * cut * chest.lungs * (0.9 + 0.1 * _cloud(rng, 0.04)) * rng.uniform(0.38, 0.75)


def _opacity(chest: _Chest, rng: np.random.Generator) -> Array:
    """An opacity without a pattern of its own: one or two patches anywhere."""
    total = np.zeros_like(chest.attenuation)
    for _ in range(rng.integers(1, 3)):
        side, height = rng.choice([-1, 1]) * rng.uniform(0.28, 0.62), rng.uniform(0.2, 0.85)
        total = np.maximum(total, _patch(chest, side, height, (rng.uniform(0.12, 0.24), rng.uniform(0.08, 0.17)), rng))
    return total * chest.lungs * rng.uniform(0.32, 0.65)


def _viral(chest: _Chest, rng: np.random.Generator) -> Array:
    """Diffuse: streaks and haze through both lungs, densest around the hila."""
    streaks = _step(0.22 - np.abs(_cloud(rng, 0.035)), 0.08) + 0.6 * _step(0.2 - np.abs(_cloud(rng, 0.02)), 0.08)
    central = 0.35 + 0.65 * _bump(np.abs(chest.side) - 0.3, 0.28) * _bump(chest.height - 0.55, 0.35)
    return (0.5 * streaks + 0.5) * central * chest.lungs * rng.uniform(0.22, 0.48)


FINDINGS: dict[str, Callable[[_Chest, np.random.Generator], Array]] = {
    "Normal": _normal,
    "Tuberculosis": _tuberculosis,
    "COVID": _covid,
    "Covid": _covid,
    "Lung_Opacity": _opacity,
    "Pneumonia": _pneumonia,
    "Viral Pneumonia": _viral,
}


def _expose(attenuation: Array, mask: Array, rng: np.random.Generator) -> Phantom:
    """From attenuation to film: blur, exposure, contrast, grain, marker, collimation."""
    image = gaussian_filter(attenuation, rng.uniform(0.4, 1.1))
    low, high = np.percentile(image, [rng.uniform(0.5, 4), rng.uniform(98, 99.8)])
    image = np.clip((image - low) / (high - low), 0, 1.05) ** rng.uniform(0.75, 1.3)
    grain = gaussian_filter(rng.standard_normal(image.shape), rng.uniform(0.4, 0.9)).astype(np.float32)
    image = image + rng.uniform(0.015, 0.045) * grain / max(float(grain.std()), 1e-6) * (1.1 - 0.6 * image)
    image = rng.uniform(0.0, 0.06) + image * rng.uniform(0.82, 0.98)
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return _collimate(_mark(pixels, rng), mask, rng)


LETTERS = {"L": ("1000", "1000", "1000", "1000", "1111"), "R": ("1110", "1001", "1110", "1010", "1001")}


def _mark(pixels: Array, rng: np.random.Generator) -> Array:
    """A side marker in an upper corner: the patient's left is the picture's right."""
    if rng.random() < 0.5:
        return pixels
    letter = rng.choice(list(LETTERS))
    scale = int(rng.integers(3, 5))
    glyph = np.kron(np.array([[int(bit) for bit in row] for row in LETTERS[letter]], bool), np.ones((scale, scale), bool))
    top = int(rng.integers(8, 40))
    left = int(rng.integers(8, 24))
    left = SIZE - left - glyph.shape[1] if letter == "L" else left
    pixels[top : top + glyph.shape[0], left : left + glyph.shape[1]][glyph] = rng.integers(225, 256)
    return pixels


def _collimate(pixels: Array, mask: Array, rng: np.random.Generator) -> Phantom:
    """Black borders, and now and then a film laid in a little turned."""
    top, bottom, left, right = (int(border) for border in rng.integers(1, 18, size=4) * (rng.random(4) < 0.4))
    frame = np.zeros_like(pixels)
    inner = (slice(top, SIZE - bottom), slice(left, SIZE - right))
    frame[inner] = pixels[inner]
    kept = np.zeros_like(mask)
    kept[inner] = mask[inner]
    if rng.random() < 0.3:
        frame, kept = _turn(frame, kept, rng.normal(0, 0.03))
    return Phantom(frame, kept)


def _turn(pixels: Array, mask: Array, angle: float) -> tuple[Array, Array]:
    center = (SIZE - 1) / 2
    y, x = np.mgrid[0:SIZE, 0:SIZE] - center
    where = np.stack([y * np.cos(angle) - x * np.sin(angle), y * np.sin(angle) + x * np.cos(angle)]) + center
    turned = map_coordinates(pixels.astype(np.float32), where, order=1)
    return np.rint(turned).astype(np.uint8), map_coordinates(mask.astype(np.float32), where, order=1) > 0.5
