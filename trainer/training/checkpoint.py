"""What a training needs to go on after it was stopped: accelerate's state, and the progress as JSON beside it."""

import json
import os
import shutil
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from trainer.errors import WorkError, reason_of
from trainer.files import writing_errors

UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, TypeError, UnpicklingError, SafetensorError)


@dataclass
class Progress:
    """How far a training has come. `history` has one row an epoch, as in history.csv."""

    epoch: int = 0
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    cache_seconds: float = 0.0  # before the first epoch: mostly the feature cache

    def record(self, row: dict[str, float], monitor: str) -> bool:
        """Add an epoch; True where its `monitor` on the validation images is the best so far (equal: its loss)."""
        self.epoch += 1
        self.history.append(row)
        best = not self.best_epoch or _rank(row, monitor) > _rank(self.history[self.best_epoch - 1], monitor)
        if best:
            self.best_epoch = self.epoch
        return best

    def stale(self, patience: int) -> bool:
        """True where `patience` epochs have passed since the best one (0: never)."""
        return bool(patience) and self.epoch - self.best_epoch >= patience


def _rank(row: dict[str, float], monitor: str) -> tuple[float, float]:
    """Of two epochs the better one has the higher."""
    return (0.0 if monitor == "loss" else row[f"validation_{monitor}"]), -row["validation_loss"]


class Checkpoints:
    """RUN/checkpoints: the newest epoch, its weights and the best ones; a kill leaves the one before intact.

    weights-EPOCH.safetensors hold the whole model, epoch-EPOCH accelerate's state of the optimiser and the random
    generators, and the progress: so a training goes on with a feature cache or without, however it began.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, accelerator: Accelerator, model: nn.Module, progress: Progress) -> None:
        """Write this epoch of the whole model (as before accelerate's `prepare`), then drop the older ones.

        Raises:
            WorkError: the disk is full or not writable.
        """
        writing = self.folder / "writing"
        with writing_errors(self.folder, (OSError, RuntimeError, SafetensorError)):
            if accelerator.is_main_process:
                shutil.rmtree(writing, ignore_errors=True)
                writing.mkdir(parents=True)
            accelerator.wait_for_everyone()
            hook = accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
            accelerator.save_state(str(writing))
            hook.remove()
            accelerator.wait_for_everyone()
            if accelerator.is_main_process:
                weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
                save_file(weights, self._weights(progress.epoch))
                (writing / "progress.json").write_text(json.dumps(asdict(progress)))
                os.replace(writing, self._epoch(progress.epoch))
                self._drop_older(progress)

    def resume(self, accelerator: Accelerator, model: nn.Module) -> Progress:
        """Load the newest epoch into the whole model and the prepared optimiser, or start anew where there is none.

        Raises:
            WorkError: the checkpoint is damaged, or of another version of this program.
        """
        newest = self.newest()
        if newest is None:
            return Progress()
        try:
            state = json.loads((newest / "progress.json").read_text())
            progress = Progress(**{item.name: state[item.name] for item in fields(Progress) if item.name in state})
            model.load_state_dict(load_file(self._weights(progress.epoch)))
            hook = accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())
            accelerator.load_state(str(newest), load_kwargs={"weights_only": True})
            hook.remove()
        except UNREADABLE as error:
            problem = f"--resume: the checkpoint {newest} cannot be read ({reason_of(error)})"
            raise WorkError(f"{problem}: it is damaged, or of another version; give a new --output") from error
        return progress

    def newest(self) -> Path | None:
        """The folder of the last complete epoch."""
        return max(self.folder.glob("epoch-*"), default=None)

    def load_best(self, progress: Progress) -> dict[str, Any]:
        """The best weights as a state dict on the CPU."""
        return load_file(self._weights(progress.best_epoch))

    def _weights(self, epoch: int) -> Path:
        return self.folder / f"weights-{epoch:04d}.safetensors"

    def _epoch(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch:04d}"

    def _drop_older(self, progress: Progress) -> None:
        for folder in set(self.folder.glob("epoch-*")) - {self._epoch(progress.epoch)}:
            shutil.rmtree(folder)
        kept = {self._weights(progress.epoch), self._weights(progress.best_epoch)}
        for file in set(self.folder.glob("weights-*.safetensors")) - kept:
            file.unlink()
