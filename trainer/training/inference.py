"""Logits of many decoded images, in the given order, on one process or on many."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from trainer.training.feed import PlainFeed, ahead


def best_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def predict_logits(
    model: nn.Module,
    feed: PlainFeed,
    indices: np.ndarray,
    accelerator: Accelerator | None = None,
    batch_size: int = 64,
    title: str | None = None,
) -> torch.Tensor:
    """Logits float32 [N, C] on the CPU; every process gets all of them. `title` shows a progress bar."""
    processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    precision: AbstractContextManager[object] = accelerator.autocast() if accelerator else nullcontext()
    share = -(-len(indices) // processes)
    mine = np.resize(indices, share * processes)[rank * share : (rank + 1) * share]
    model.eval()
    batches = [mine[start : start + batch_size] for start in range(0, share, batch_size)]
    device = accelerator.device if accelerator else next(model.parameters()).device
    loaded = tqdm(ahead(feed.plain, batches, device), total=len(batches), desc=title, leave=False, disable=title is None or rank > 0)
    with torch.inference_mode(), precision:
        logits = [model(values).logits.float() for values in loaded]
    joined = torch.cat(logits)
    return (accelerator.gather(joined) if accelerator else joined)[: len(indices)].cpu()
