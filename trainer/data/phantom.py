"""Phantoms: drawn chest radiographs with a known finding and its mask. They are drawings, not patients.

A phantom is a sum of attenuations (soft tissue, spine, heart, ribs, vessels, a finding) seen through a film: exposure,
contrast, blur, grain, borders and marker vary from image to image and never with the label.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from tqdm.auto import tqdm

from trainer.errors import UsageError
from trainer.files import atomic_write
from trainer.hardware import available_cores
from trainer.tasks import TASKS

SIZE, GRID = 320, 160  # pixels along a side: of a phantom, and of the grid on which its smooth anatomy is drawn
Array = np.ndarray


@dataclass(frozen=True)
class Phantom:
    """`pixels` uint8 [320, 320]; `mask` and `lungs` bool [320, 320], True where the finding is, and in the lungs."""

    pixels: Array
    mask: Array
    lungs: Array


@dataclass(frozen=True)
class Chest:
    """A healthy chest, all [GRID, GRID]: what absorbs (log scale), and where the lungs are."""

    attenuation: Array
    lungs: Array  # 0..1, both lungs
    side: Array  # signed distance from the midline, in half-widths: -1 left of the image, +1 right
    height: Array  # 0 at the apex, 1 at the dome of the diaphragm


def draw_phantom(label: str, rng: np.random.Generator, blur: float = 0.0) -> Phantom:
    """Draw one phantom of a task's label; the same generator state gives the same image.

    `blur`: pixels by which the finished image is blurred, as films in low resolution are.
    """
    chest = _draw_chest(rng)
    opacity = FINDINGS[label](chest, rng) * chest.lungs
    mask = _resize(opacity, SIZE) > 0.25 * max(float(opacity.max()), 1e-6)
    phantom = _expose(_resize(chest.attenuation + opacity, SIZE), mask, _resize(chest.lungs, SIZE) > 0.5, rng)
    return replace(phantom, pixels=gaussian_filter(phantom.pixels, blur)) if blur else phantom


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
    if seed < 0:
        raise UsageError(f"--seed {seed}: expected a number that is not negative")
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
    key = (seed, list(TASKS).index(task), TASKS[task].labels.index(label), number)
    phantom = draw_phantom(label, np.random.default_rng(key))
    name = f"phantom-{number:05d}.png"
    images = {output / label / name: phantom.pixels}
    if phantom.mask.any():
        images[output.with_name(f"{output.name}_masks") / label / name] = phantom.mask.astype(np.uint8) * 255
    for target, pixels in images.items():
        with atomic_write(target) as file:
            Image.fromarray(pixels).save(file, "PNG")


def _soft_step(value: Array, softness: float) -> Array:
    """0 below 0, 1 above, with a soft edge."""
    ramp = np.clip(value / (5 * softness) + 0.5, 0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _bump(value: Array, width: Array | float) -> Array:
    """A Gaussian: 1 at 0."""
    return np.exp(-0.5 * (value / width) ** 2)


def _ellipse(side: Array, height: Array, center: tuple[float, float], radii: tuple[float, float]) -> Array:
    """1 at the centre, 0 on the rim, negative outside."""
    return 1 - ((side - center[0]) / radii[0]) ** 2 - ((height - center[1]) / radii[1]) ** 2


def _cloud(rng: np.random.Generator, scale: float) -> Array:
    """Smooth noise with features of about `scale` of the image, in -1..1."""
    coarse = rng.standard_normal((round(1 / scale) + 1,) * 2)
    return np.tanh(_resize(coarse, GRID, Image.Resampling.BICUBIC))


def _resize(values: Array, size: int, method: Image.Resampling = Image.Resampling.BILINEAR) -> Array:
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((size, size), method))


def _draw_chest(rng: np.random.Generator) -> Chest:
    """Another patient with each state of the generator: build, posture (tilt, scale, a smooth bend) and organs."""
    y, x = (np.mgrid[0:GRID, 0:GRID].astype(np.float32) + 0.5) / GRID - 0.5
    tilt, scale = rng.normal(0, 0.03), rng.uniform(0.93, 1.07)
    x, y = (x - tilt * y) / scale + 0.01 * _cloud(rng, 0.4), (y + tilt * x) / scale + 0.012 * _cloud(rng, 0.4)
    top, bottom = rng.uniform(-0.42, -0.35), rng.uniform(0.20, 0.32)
    side, height = (2 * x - rng.normal(0, 0.03)) / rng.uniform(0.70, 0.84), (y - top) / (bottom - top)
    lungs = np.maximum(_lung(side, height, rng), _lung(-side, height - 0.03, rng))
    shoulders = 0.35 + 1.1 * _soft_step(y - rng.uniform(-0.43, -0.37), 0.035)
    tissue = 1.25 + 0.12 * _cloud(rng, 0.4) + 0.25 * _bump(side, 0.7) + 0.5 * _soft_step(height - 1.04, 0.05)
    organs = _midline(side, height, rng) + _bones(side, height, rng) + lungs * _vessels(side, height, rng)
    air = lungs * rng.uniform(0.80, 1.05) * (1 - 0.25 * _soft_step(height - 0.75, 0.12))
    return Chest(_soft_step(shoulders - np.abs(side), 0.03) * (tissue + organs - air), lungs, side, height)


def _wall(height: Array) -> Array:
    """Half-width of the rib cage by height: a rounded apex, widest near the base."""
    return 0.97 * (1 - np.clip(1 - height / 0.75, 0, 1) ** 2.3) ** 0.62


def _lung(across: Array, height: Array, rng: np.random.Generator) -> Array:
    """One lung field: chest wall, mediastinal edge, domed diaphragm with its outer recess."""
    inner = 0.16 + 0.02 * rng.standard_normal() + 0.05 * _bump(height - 0.85, 0.2)
    dome = rng.uniform(0.90, 0.98) + 0.5 * np.clip(np.abs(across - 0.5) - 0.05, 0, None) ** 1.7
    sides = _soft_step(_wall(height) - across, 0.011) * _soft_step(across - inner, 0.02)
    return sides * _soft_step(dome - height, 0.010) * _soft_step(height, 0.011)


def _midline(side: Array, height: Array, rng: np.random.Generator) -> Array:
    """Spine with its discs, air in the trachea, and a heart (ventricles, atrium, arch) to the patient's left."""
    discs = 0.85 + 0.15 * np.cos(2 * np.pi * (height / rng.uniform(0.09, 0.12) + rng.uniform()))
    spine = rng.uniform(0.22, 0.36) * _bump(side, 0.09) * discs + 0.30 * _bump(side, 0.16)
    trachea = 0.30 * _bump(side - 0.01, 0.05) * _soft_step(0.34 - height, 0.03)
    low = rng.uniform(0.78, 0.86)
    ventricle = _soft_step(_ellipse(side, height, (0.20, low), (rng.uniform(0.36, 0.50), 0.24)), 0.07)
    atrium = _soft_step(_ellipse(side, height, (-0.06, low), (0.25, 0.24)), 0.07)
    arch = _soft_step(_ellipse(side, height, (0.09, 0.42), (rng.uniform(0.14, 0.20), 0.22)), 0.15)
    heart = np.maximum.reduce([ventricle, atrium, 0.65 * arch])
    below = 1 - 0.8 * _soft_step(height - 1.0, 0.03)  # there the liver hides the heart
    return spine - trachea + rng.uniform(0.45, 0.65) * heart * below


def _bones(side: Array, height: Array, rng: np.random.Generator) -> Array:
    """Ribs, dense behind and faint in front, clavicles and shoulder blades."""
    across = np.abs(side)
    strength, gap, first = rng.uniform(0.16, 0.28), rng.uniform(0.100, 0.115), rng.uniform(-0.03, 0.02)
    behind = 0.24 * across**2.2 - 0.10 * np.sin(np.pi * np.clip(across, 0, 1) ** 0.8)
    before = 0.24 - 0.26 * (across - 0.2) * (1.6 - across)
    ribs = np.zeros_like(side)
    for number in range(11):
        along, width = height - first - gap * number, rng.uniform(0.021, 0.026)
        ribs += _soft_step(1 - np.abs(along - behind) / width, 0.12)
        ribs += 0.3 * _soft_step(1 - np.abs(along - before) / (1.4 * width), 0.12) * (across > 0.35)
    ribs *= _soft_step(_wall(height) + 0.03 - across, 0.012) * _soft_step(height + 0.06, 0.02)
    clavicle = _bump(height - rng.uniform(0.07, 0.13) + rng.uniform(0.06, 0.12) * across, 0.018)
    blade = rng.uniform(0.06, 0.16) * _soft_step(_ellipse(across, height, (1.0, 0.28), (0.20, 0.32)), 0.08)
    return (strength * ribs + 0.2 * clavicle * (across < 1)) * _soft_step(across - 0.10, 0.03) + blade


def _vessels(side: Array, height: Array, rng: np.random.Generator) -> Array:
    """Hila, and vessels that branch from them and thin out toward the wall."""
    total = np.zeros_like(side)
    for sign in (-1, 1):
        across, down = side * sign - rng.uniform(0.20, 0.26), height - rng.uniform(0.44, 0.52)
        total += rng.uniform(0.12, 0.26) * _bump(across, 0.08) * _bump(down, 0.10)
        for angle in rng.uniform(-1.2, 1.25, size=9):
            forward, off = across * np.cos(angle) + down * np.sin(angle), down * np.cos(angle) - across * np.sin(angle)
            along = np.clip(forward / rng.uniform(0.45, 0.85), 0, 1)
            bend = rng.normal(0, 0.12) * along**2
            total += 0.16 * _bump(off - bend, 0.021 - 0.015 * along) * (1 - along) * np.clip(forward * 8, 0, 1)
    return total * rng.uniform(0.7, 1.25)


def _blob(chest: Chest, side: float, height: float, size: float, rng: np.random.Generator) -> Array:
    """A ragged patch in 0..1 around a point of the chest, `size` wide and about two thirds as high."""
    radii = size * rng.uniform(0.75, 1.35), size * rng.uniform(0.5, 0.9)
    distance = np.sqrt(1 - _ellipse(chest.side, chest.height, (side, height), radii))
    return _soft_step(1 - distance + 0.45 * _cloud(rng, 0.08), 0.22)


def _normal(chest: Chest, rng: np.random.Generator) -> Array:
    return np.zeros_like(chest.lungs)


def _tuberculosis(chest: Chest, rng: np.random.Generator) -> Array:
    """Apical: a mottled infiltrate or a thick-walled cavity, at times on both sides."""
    total = np.zeros_like(chest.lungs)
    for sign in rng.permutation([-1, 1])[: rng.choice([1, 2], p=[0.65, 0.35])]:
        side, height = sign * rng.uniform(0.33, 0.62), rng.uniform(0.16, 0.36)
        if rng.random() < 0.4:
            radius = rng.uniform(0.08, 0.15)
            distance = np.hypot(chest.side - side, (chest.height - height) * 1.5) / radius + 0.12 * _cloud(rng, 0.06)
            lesion = _bump(distance - 1, 0.28) + 0.25 * _bump(distance, 1.6)
        else:
            lesion = _blob(chest, side, height, 0.19, rng) * (0.55 + 0.45 * _soft_step(_cloud(rng, 0.025), 0.25))
        total = np.maximum(total, lesion)
    return total * rng.uniform(0.26, 0.60)


def _covid(chest: Chest, rng: np.random.Generator) -> Array:
    """Several hazy patches on both sides, near the wall, more below than above."""
    total = np.zeros_like(chest.lungs)
    for sign in (-1, 1):
        for _ in range(rng.integers(2, 5)):
            height = rng.triangular(0.25, 0.75, 0.95)
            side = sign * float(_wall(np.array(height))) * rng.uniform(0.72, 0.92)
            total = np.maximum(total, _blob(chest, side, height, 0.17, rng))
    edge = np.clip(1.2 * np.abs(chest.side) - 0.2, 0, 1)
    return total * (0.8 + 0.2 * _cloud(rng, 0.03)) * (0.35 + 0.65 * edge) * rng.uniform(0.26, 0.55)


def _pneumonia(chest: Chest, rng: np.random.Generator) -> Array:
    """One lobe filled: dense, one-sided, with a sharp fissure above or below."""
    side, direction = rng.choice([-1, 1]) * rng.uniform(0.38, 0.60), rng.choice([1, -1], p=[0.65, 0.35])
    height = rng.uniform(0.62, 0.82) if direction > 0 else rng.uniform(0.22, 0.40)
    fissure = height - 0.15 * direction + 0.15 * (np.abs(chest.side) - 0.4)
    lobe = _blob(chest, side, height, 0.29, rng) * _soft_step((chest.height - fissure) * direction, 0.02)
    return lobe * rng.uniform(0.38, 0.75)


def _opacity(chest: Chest, rng: np.random.Generator) -> Array:
    """An opacity without a pattern of its own: one or two patches anywhere."""
    total = np.zeros_like(chest.lungs)
    for _ in range(rng.integers(1, 3)):
        side, height = rng.choice([-1, 1]) * rng.uniform(0.28, 0.62), rng.uniform(0.2, 0.85)
        total = np.maximum(total, _blob(chest, side, height, 0.18, rng))
    return total * rng.uniform(0.32, 0.65)


def _viral(chest: Chest, rng: np.random.Generator) -> Array:
    """Diffuse: streaks and haze through both lungs, densest around the hila."""
    streaks = sum(_soft_step(0.21 - np.abs(_cloud(rng, scale)), 0.08) for scale in (0.035, 0.02))
    central = 0.35 + 0.65 * _bump(np.abs(chest.side) - 0.3, 0.28) * _bump(chest.height - 0.55, 0.35)
    return (0.5 + 0.4 * streaks) * central * rng.uniform(0.22, 0.48)


FINDINGS: dict[str, Callable[[Chest, np.random.Generator], Array]] = {  # attenuation that each label adds in the lungs
    "Normal": _normal,
    "Tuberculosis": _tuberculosis,
    "COVID": _covid,
    "Covid": _covid,
    "Lung_Opacity": _opacity,
    "Pneumonia": _pneumonia,
    "Viral Pneumonia": _viral,
}


def _expose(attenuation: Array, mask: Array, lungs: Array, rng: np.random.Generator) -> Phantom:
    """The film: blur, exposure, contrast, grain, a side marker, black borders; now and then laid in a little turned."""
    image = gaussian_filter(attenuation, rng.uniform(0.4, 1.1))
    low, high = np.percentile(image, [rng.uniform(0.5, 4), rng.uniform(98, 99.8)])
    image = np.clip((image - low) / (high - low), 0, 1.05) ** rng.uniform(0.75, 1.3)
    grain = gaussian_filter(rng.standard_normal(image.shape), rng.uniform(0.4, 0.9))
    image += rng.uniform(0.015, 0.045) * grain / grain.std() * (1.1 - 0.6 * image)
    image = rng.uniform(0.0, 0.06) + image * rng.uniform(0.82, 0.98)
    film = Image.fromarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
    if rng.random() < 0.5:  # the patient's left is the image's right
        letter, left = [("R", rng.integers(8, 24)), ("L", rng.integers(SIZE - 36, SIZE - 20))][rng.integers(2)]
        font = ImageFont.load_default(size=int(rng.integers(18, 26)))
        corner = (float(left), float(rng.integers(8, 40)))
        ImageDraw.Draw(film).text(corner, letter, int(rng.integers(225, 256)), font)
    top, bottom, left, right = rng.integers(1, 18, size=4) * (rng.random(4) < 0.4)
    inside = np.zeros((SIZE, SIZE), bool)
    inside[top : SIZE - bottom, left : SIZE - right] = True
    angle = rng.normal(0, 1.7) if rng.random() < 0.3 else 0  # degrees
    framed = Image.fromarray(np.where(inside, np.asarray(film), 0)).rotate(angle, Image.Resampling.BILINEAR)
    masks = (np.asarray(Image.fromarray(one & inside).rotate(angle)) for one in (mask, lungs))
    return Phantom(np.asarray(framed), *masks)
