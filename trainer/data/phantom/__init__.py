"""Phantoms: procedurally drawn chest radiographs with a known finding and its mask. They are drawings, not patients.

A phantom is a sum of attenuations (soft tissue, spine, heart, ribs, vessels, abdomen) seen through a film: exposure,
contrast, blur, grain, border and marker vary from image to image and never with the label.
"""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from trainer.data.phantom.anatomy import Chest
from trainer.data.phantom.film import expose
from trainer.data.phantom.findings import FINDINGS
from trainer.data.phantom.shapes import Array, enlarge
from trainer.errors import UsageError
from trainer.hardware import available_cores
from trainer.tasks import TASKS

__all__ = ["FINDINGS", "Phantom", "draw_phantom", "write_phantoms"]


@dataclass(frozen=True)
class Phantom:
    """`pixels` uint8 [320, 320] and `mask` bool [320, 320], True where the finding is."""

    pixels: Array
    mask: Array


def draw_phantom(label: str, rng: np.random.Generator) -> Phantom:
    """Draw one phantom of a task's label; the same generator state gives the same image."""
    chest = Chest.draw(rng)
    opacity = FINDINGS[label](chest, rng)
    mask = enlarge(opacity) > 0.25 * max(float(opacity.max()), 1e-6)
    return Phantom(*expose(enlarge(chest.attenuation + opacity), mask, rng))


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
