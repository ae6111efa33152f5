"""What a run is made with and how long it takes: versions, hardware and settings; no path and no host name in files."""

import os
import platform
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from trainer import __version__
from trainer.data.labelled import LabelledImages
from trainer.data.pixels import data_fingerprint
from trainer.data.public.layout import read_terms
from trainer.data.schema import SPLITS
from trainer.errors import UsageError
from trainer.hardware import available_cores, best_device, choose_precision, cpu_kind

PACKAGES = "torch torchvision transformers timm accelerate datasets evaluate scikit-learn numpy Pillow pydicom"


def describe(command: Sequence[str]) -> dict[str, Any]:
    """The machine, the versions and the command (paths cut down to their last name), for environment.json."""
    return {
        "cxr_hub": __version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES.split()},
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cpu_kind": cpu_kind(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "command": shlex.join(["cxr", *(Path(word.replace("\\", "/")).name or word for word in command)]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def describe_training(data: str, labelled: LabelledImages, accelerator: Accelerator) -> dict[str, Any]:
    """The processes, the precision and the data of a training, for environment.json."""
    return {
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
        "data_fingerprint": data_fingerprint(labelled.rows),
        "dataset": None if Path(data).expanduser().exists() else data.partition("@")[0],
        "data_sources": read_terms([*labelled.rows["file"], *([data] if Path(data).is_file() else [])]),
    }


def processor_name() -> str:
    """The processor as its maker calls it, where torch can read that."""
    return torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()


def outline(labelled: LabelledImages, model: torch.nn.Module, accelerator: Accelerator, precision: str) -> str:
    """What a training is about to do, in lines: device, precision, images, parameters, decoded images.

    Args:
        model: with its frozen parameters frozen.
        precision: the recipe's `mixed_precision`.
    """
    device, (name, reason) = accelerator.device, choose_precision(precision)
    if name != accelerator.mixed_precision:
        name, reason = accelerator.mixed_precision, "as this training began"
    machine = f"{device.type}, {processor_name()}, {torch.get_num_threads()} threads"
    if device.type == "cuda":
        machine = f"{device}, {torch.cuda.get_device_name(device)}"
    counts = pd.crosstab(labelled.rows["label"], labelled.rows["split"])
    splits = [split for split in SPLITS if split in counts]
    table = counts.loc[list(labelled.task.labels), splits].rename_axis(index=None, columns="images")
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    learning = sum(size for size, learns in sizes if learns)
    images = labelled.images
    return f"""device: {machine}; processes: {accelerator.num_processes}
precision: {"fp32" if name == "no" else name} ({reason})
{table.to_string()}
parameters: {learning:,} of {sum(size for size, _ in sizes):,} train
decoded: {len(images):,} images, {len(images) * images.height * images.width / 1e6:,.1f} MB in {images.cache.parent}"""


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Note the seconds that a part of the run takes."""
    start = time.perf_counter()
    yield
    seconds[part] = round(time.perf_counter() - start, 3)


def make_accelerator(
    mixed_precision: str, folder: Path, report_to: str | GeneralTracker, compiled: bool
) -> Accelerator:
    """The devices, in the precision that suits them; `report_to` names a tracker, or is one.

    Raises:
        UsageError: the tracker that is asked for is not installed.
    """
    log_with = None if report_to == "none" else report_to
    if isinstance(log_with, str) and not find_spec(log_with):
        raise UsageError(f"--report-to {log_with}: it is not installed; pip install {log_with}")
    on_cpu = best_device().type == "cpu"  # named, or several processes on a CPU would not find each other
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if on_cpu and processes > 1:  # launchers give each process one thread, whatever the machine has
        torch.set_num_threads(max(1, available_cores() // processes))
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=choose_precision(mixed_precision)[0],
        log_with=log_with,
        project_dir=str(folder),
        dynamo_backend="inductor" if compiled else None,
    )
