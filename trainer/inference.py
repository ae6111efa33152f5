"""A model over decoded images: in their order, in batches, on one process or on many."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from trainer.cxr_model import CxrForImageClassification, CxrImageProcessor, CxrOutput
from trainer.data.pixels import GreyImages
from trainer.hardware import best_device

Job = TypeVar("Job")
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class PixelBatches:
    """Pixel values float32 [B, 3, H, W], channels last, on `device`."""

    images: GreyImages
    processor: CxrImageProcessor
    device: torch.device

    def eval_batch(self, samples: np.ndarray) -> torch.Tensor:
        """Pixel values of these rows, not augmented."""
        return self.processor.to_pixel_values(self.grey(samples))

    def grey(self, samples: np.ndarray) -> torch.Tensor:
        """uint8 [B, H, W] of these rows."""
        return to_device(self.images.batch(samples), self.device)


def for_inference(model: CxrForImageClassification, processor: CxrImageProcessor) -> CxrForImageClassification:
    """The model itself in eval mode, moved to the best device, channels last; with BatchNorm, a copy that has it folded
    into its convolutions.
    """
    model = model.eval().to(best_device(), memory_format=torch.channels_last)
    if not any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        return model
    example = torch.rand(1, 3, processor.size["height"], processor.size["width"], device=model.device)
    folded: CxrForImageClassification = model.fold_batch_norm(example.contiguous(memory_format=torch.channels_last))
    return folded


def run_model(
    model: nn.Module,
    inputs: Callable[[np.ndarray], torch.Tensor],
    indices: np.ndarray,
    accelerator: Accelerator | None = None,
    batch_size: int = 64,
    title: str | None = None,
    select: Callable[[CxrOutput], torch.Tensor] = attrgetter("logits"),
) -> torch.Tensor:
    """The logits for these rows, or what `select` takes of the output: float32 [N, C] on the CPU of every process.

    Args:
        inputs: what the model takes, by row numbers [B].
        title: of a progress bar; None shows none.
    """
    processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    precision: AbstractContextManager[object] = accelerator.autocast() if accelerator else nullcontext()
    per_process = -(-len(indices) // processes)
    own = np.resize(indices, per_process * processes)[rank * per_process : (rank + 1) * per_process]
    model.eval()
    jobs = [own[start : start + batch_size] for start in range(0, per_process, batch_size)]
    device = accelerator.device if accelerator else next(model.parameters()).device
    loaded = prefetch(inputs, jobs, device)
    bar = tqdm(loaded, total=len(jobs), desc=title, leave=False, disable=title is None or rank > 0)
    with torch.inference_mode(), precision:
        outputs = torch.cat([select(model(values)).float() for values in bar])
    return (accelerator.gather(outputs) if accelerator else outputs)[: len(indices)].cpu()


def predict_image(model: CxrForImageClassification, processor: CxrImageProcessor, pixels: np.ndarray) -> dict[str, Any]:
    """The decision of a model on one image uint8 [H, W] of any size; see `CxrForImageClassification.decide`."""
    (decision,) = model.decide(_output(model, processor, pixels))
    return decision


def heat_map_of(
    model: CxrForImageClassification, processor: CxrImageProcessor, pixels: np.ndarray, label: str
) -> np.ndarray:
    """Where one image uint8 [H, W] of any size spoke for a label: float32 [h, w] in 0..1; see `heatmap`."""
    output = _output(model, processor, pixels)
    return model.heatmap(output, model.labels.index(label))[0].cpu().numpy()


def _output(model: CxrForImageClassification, processor: CxrImageProcessor, pixels: np.ndarray) -> CxrOutput:
    grey = torch.from_numpy(processor.resize(pixels).copy()).unsqueeze(0).to(model.device)
    with torch.inference_mode():
        output: CxrOutput = model(processor.to_pixel_values(grey))
    return output


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A CPU tensor on `device`; a GPU copies it from pinned memory while the CPU goes on."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def prefetch(make: Callable[[Job], Batch], jobs: Sequence[Job], device: torch.device) -> Iterator[Batch]:
    """The batch of each job; beside a GPU the next one is made in a thread while this one is used."""
    if device.type == "cpu" or not jobs:
        yield from map(make, jobs)
        return
    with ThreadPoolExecutor(max_workers=1) as worker:
        upcoming = worker.submit(make, jobs[0])
        for job in jobs[1:]:
            batch, upcoming = upcoming.result(), worker.submit(make, job)
            yield batch
        yield upcoming.result()
