"""A hospital's films as the model sees them, by the original of a run that was adapted before."""

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from trainer.adaptation.fits import Change, Films
from trainer.data.labelled import load_for_model
from trainer.errors import UsageError, reason_of
from trainer.inference import PixelBatches, for_inference, run_model
from trainer.run import Run

BATCH = 2  # films: few need little memory, and hardly more time


class LocalFilms(NamedTuple):
    """Films, their manifest rows, the original as the change that changes nothing, and how many films there are."""

    films: Films
    rows: pd.DataFrame
    known: Change
    counts: dict[str, Any]


def original_of(run: Run) -> Run:
    """Where the metrics, predictions and manifest of a run lie as they were before it was adapted, if it was."""
    return Run(run.path / "original") if run.has("original") else run


def load_original(run: Run) -> tuple[Any, Any]:
    """The model of a run before it was adapted, if it was, and its processor.

    Raises:
        UsageError: no model can be loaded, or the original's last layer does not fit it.
    """
    model, processor = run.load_model()
    if run.has("original/head.safetensors"):
        try:
            head = load_file(run.path / "original/head.safetensors")
            left = model.load_state_dict(head, strict=False).unexpected_keys
        except Exception as error:  # whatever a damaged or tampered file makes of it
            raise UsageError(f"{run.path}: original/head.safetensors cannot be loaded ({reason_of(error)})") from error
        if left or not all(tensor.isfinite().all() for tensor in head.values()):
            raise UsageError(f"{run.path}: original/head.safetensors is not this model's, or not finite")
    return model, processor


def score_films(run: Run, data: str, log: Callable[[str], None]) -> LocalFilms:
    """Scores and features of local films by the original of a run; those that trained it are left out and said.

    Raises:
        UsageError: as `load_for_model`.
    """
    model, processor = load_original(run)
    original, labels = original_of(run), model.labels
    labelled, left = load_for_model(data, None, labels, processor, original.manifest(), log)
    model = for_inference(model, processor)

    def select(output: Any) -> torch.Tensor:
        features = model.embed(output.maps or [output.feature_map])
        return torch.cat([output.logits.log_softmax(dim=1), features], dim=1)

    inputs = PixelBatches(labelled.images, processor, model.device).eval_batch
    indices = np.arange(len(labelled.rows))
    outputs = (
        run_model(model, inputs, indices, batch_size=BATCH, title="looking at the films", select=select).float().numpy()
    )
    logits, features = outputs[:, : len(labels)].astype(np.float64), outputs[:, len(labels) :]
    films = Films(logits, labelled.truth, labelled.rows["group"].to_numpy(), features)
    decision = original.read_json("metrics.json")["decision"] or {"threshold": 0.5}
    threshold = decision["threshold"] if len(labels) == 2 else None
    sizes = {label: int((films.truth == index).sum()) for index, label in enumerate(labels)}
    tested = dict(original.predictions()[["sha256", "split"]].to_numpy()) if original.has("predictions.csv") else {}
    again = Counter(tested[sha] for sha in labelled.rows["sha256"] if sha in tested)
    counts = {"n": len(films.truth), "groups": len(set(films.groups)), "labels": sizes, "tested_before": dict(again)}
    return LocalFilms(films, labelled.rows, Change(threshold, np.zeros(len(labels))), {**counts, **left})
