"""Logits of many decoded images, in the given order, on one process or on many."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from trainer.data.pixels import GreyImages

ToPixelValues = Callable[[torch.Tensor], torch.Tensor]


def best_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def predict_logits(
    model: nn.Module,
    images: GreyImages,
    indices: np.ndarray,
    to_pixel_values: ToPixelValues,
    accelerator: Accelerator | None = None,
    batch_size: int = 64,
    title: str | None = None,
) -> torch.Tensor:
    """Logits float32 [N, C] on the CPU; every process gets all of them. `title` shows a progress bar."""
    processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    device = accelerator.device if accelerator else next(model.parameters()).device
    precision: AbstractContextManager[object] = accelerator.autocast() if accelerator else nullcontext()
    share = -(-len(indices) // processes)
    mine = np.resize(indices, share * processes)[rank * share : (rank + 1) * share]
    model.eval()
    logits = []
    starts = tqdm(range(0, share, batch_size), desc=title, leave=False, disable=title is None or rank > 0)
    with torch.inference_mode(), precision:
        for start in starts:
            grey = images.batch(mine[start : start + batch_size]).to(device)
            values = to_pixel_values(grey).contiguous(memory_format=torch.channels_last)
            logits.append(model(values).logits.float())
    joined = torch.cat(logits)
    return (accelerator.gather(joined) if accelerator else joined)[: len(indices)].cpu()
