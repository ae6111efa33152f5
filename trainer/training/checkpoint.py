"""What a training needs to go on after it was stopped: accelerate's state, and the progress as JSON beside it."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from trainer.errors import WorkError


@dataclass
class Progress:
    """How far a training has come. `history` has one row an epoch, as in history.csv."""

    epoch: int = 0
    best_epoch: int = 0
    best_loss: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)

    def record(self, row: dict[str, float]) -> bool:
        """Add an epoch; True where its validation loss is the lowest so far."""
        self.epoch += 1
        self.history.append(row)
        best = self.best_loss is None or row["validation_loss"] < self.best_loss
        if best:
            self.best_epoch, self.best_loss = self.epoch, row["validation_loss"]
        return best

    def stale(self, patience: int) -> bool:
        """True where `patience` epochs have passed since the best one (0: never)."""
        return bool(patience) and self.epoch - self.best_epoch >= patience


class Checkpoints:
    """RUN/checkpoints: the newest epoch and the best weights. A kill at any moment leaves the one before intact."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, accelerator: Accelerator, model: nn.Module, progress: Progress, best: bool) -> None:
        """Write this epoch, then drop the older ones.

        Raises:
            WorkError: the disk is full or not writable.
        """
        writing = self.folder / "writing"
        with _told(self.folder):
            if accelerator.is_main_process:
                shutil.rmtree(writing, ignore_errors=True)
                writing.mkdir(parents=True)
            accelerator.wait_for_everyone()
            accelerator.save_state(str(writing))
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                if best:
                    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
                    save_file(weights, self.best(progress))
                (writing / "progress.json").write_text(json.dumps(asdict(progress)))
                os.replace(writing, self.folder / f"epoch-{progress.epoch:04d}")
                self._drop_older(progress)

    def resume(self, accelerator: Accelerator) -> Progress:
        """Load the newest epoch into the prepared model and optimiser, or start anew where there is none."""
        newest = self.newest()
        if newest is None:
            return Progress()
        accelerator.load_state(str(newest), load_kwargs={"weights_only": True})
        return Progress(**json.loads((newest / "progress.json").read_text()))

    def newest(self) -> Path | None:
        """The folder of the last complete epoch."""
        return max(self.folder.glob("epoch-*"), default=None)

    def best(self, progress: Progress) -> Path:
        """The file of the best weights."""
        return self.folder / f"best-{progress.best_epoch:04d}.safetensors"

    def load_best(self, progress: Progress) -> dict[str, Any]:
        """The best weights as a state dict on the CPU."""
        return load_file(self.best(progress))

    def _drop_older(self, progress: Progress) -> None:
        for folder in self.folder.glob("epoch-*"):
            if folder.name != f"epoch-{progress.epoch:04d}":
                shutil.rmtree(folder)
        for file in self.folder.glob("best-*.safetensors"):
            if file != self.best(progress):
                file.unlink()


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise WorkError(f"the checkpoint cannot be written to {folder} ({reason}); free some space and go on with --resume") from error
