"""Phantoms: drawn chest radiographs with a known finding and its mask. They are drawings, not patients.

What the body absorbs is seen through a film: exposure, contrast, blur, grain, borders and marker vary from image to
image and never with the label.
"""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter
from tqdm.auto import tqdm

from trainer.data.manifest import available_cores
from trainer.data.phantom.chest import Array, Chest
from trainer.data.phantom.findings import FINDINGS
from trainer.errors import UsageError
from trainer.tasks import TASKS

__all__ = ["FINDINGS", "Phantom", "draw_phantom", "write_phantoms"]
SIZE = 320  # pixels along a side


class Phantom(NamedTuple):
    """`pixels` uint8 [320, 320] and `mask` bool [320, 320], True where the finding is."""

    pixels: Array
    mask: Array


def draw_phantom(label: str, rng: np.random.Generator) -> Phantom:
    """Draw one phantom of a task's label; the same generator state gives the same image."""
    chest = Chest.draw(rng)
    opacity = chest.lungs * FINDINGS[label](chest, rng)
    attenuation, finding = (_enlarge(values) for values in (chest.attenuation + opacity, opacity))
    film = Image.fromarray(_expose(attenuation, rng))
    mask = Image.fromarray(finding > 0.25 * max(float(finding.max()), 1e-6))
    if rng.random() < 0.5:  # a side marker in an upper corner: the patient's left is the image's right
        letter, left = [("R", rng.integers(8, 24)), ("L", rng.integers(SIZE - 36, SIZE - 20))][rng.integers(2)]
        font = ImageFont.load_default(size=int(rng.integers(18, 26)))
        ImageDraw.Draw(film).text((left, rng.integers(8, 40)), letter, int(rng.integers(225, 256)), font)
    angle = rng.normal(0, 2) if rng.random() < 0.3 else 0  # now and then it is laid in a little turned
    borders = rng.integers(1, 18, size=4) * (rng.random(4) < 0.4)
    top, bottom, left, right = (int(border) for border in borders)
    inside = np.zeros((SIZE, SIZE), bool)
    inside[top : SIZE - bottom, left : SIZE - right] = True
    return Phantom(np.where(inside, film.rotate(angle, Image.Resampling.BILINEAR), 0), inside & mask.rotate(angle))


def _enlarge(values: Array) -> Array:
    return np.asarray(Image.fromarray(values.astype(np.float32)).resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def _expose(attenuation: Array, rng: np.random.Generator) -> Array:
    """Blur, exposure, contrast and grain; gives uint8 [320, 320]."""
    image = gaussian_filter(attenuation, rng.uniform(0.4, 1.1))
    low, high = np.percentile(image, [rng.uniform(0.5, 4), rng.uniform(98, 99.8)])
    image = np.clip((image - low) / (high - low), 0, 1.05) ** rng.uniform(0.75, 1.3)
    grain = gaussian_filter(rng.standard_normal(image.shape), rng.uniform(0.4, 0.9)).astype(np.float32)
    image = image + rng.uniform(0.015, 0.045) * grain / grain.std() * (1.1 - 0.6 * image)
    image = rng.uniform(0.0, 0.06) + image * rng.uniform(0.82, 0.98)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


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
    position = (list(TASKS).index(task), TASKS[task].labels.index(label))
    phantom = draw_phantom(label, np.random.default_rng([seed, *position, number]))
    name = f"phantom-{number:05d}.png"
    Image.fromarray(phantom.pixels).save(output / label / name)
    if phantom.mask.any():
        masks = output.with_name(f"{output.name}_masks") / label
        masks.mkdir(parents=True, exist_ok=True)
        Image.fromarray(phantom.mask.astype(np.uint8) * 255).save(masks / name)
