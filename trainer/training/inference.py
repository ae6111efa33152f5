"""What a model says of many decoded images, in the given order, on one process or on many."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from operator import attrgetter

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm.auto import tqdm

from trainer.cxr_model import CxrOutput
from trainer.training.feed import PlainFeed, ahead


def best_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def run_over(
    model: nn.Module,
    feed: PlainFeed,
    indices: np.ndarray,
    accelerator: Accelerator | None = None,
    batch_size: int = 64,
    title: str | None = None,
    pick: Callable[[CxrOutput], torch.Tensor] = attrgetter("logits"),
) -> torch.Tensor:
    """Logits, or what `pick` takes of the output, float32 [N, C] on the CPU; every process gets all. `title` shows a bar."""
    processes, rank = (accelerator.num_processes, accelerator.process_index) if accelerator else (1, 0)
    precision: AbstractContextManager[object] = accelerator.autocast() if accelerator else nullcontext()
    share = -(-len(indices) // processes)
    mine = np.resize(indices, share * processes)[rank * share : (rank + 1) * share]
    model.eval()
    batches = [mine[start : start + batch_size] for start in range(0, share, batch_size)]
    device = accelerator.device if accelerator else next(model.parameters()).device
    loaded = tqdm(ahead(feed.plain, batches, device), total=len(batches), desc=title, leave=False, disable=title is None or rank > 0)
    with torch.inference_mode(), precision:
        found = [pick(model(values)).float() for values in loaded]
    joined = torch.cat(found)
    return (accelerator.gather(joined) if accelerator else joined)[: len(indices)].cpu()
