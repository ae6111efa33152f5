"""A split as a model scores it."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from trainer.cxr_model import CxrForImageClassification, CxrImageProcessor
from trainer.data.labelled import LabelledImages
from trainer.inference import PixelBatches, run_model


class Scored(NamedTuple):
    """Manifest rows with group and collection, label indices [N], scores [N, C], familiarity [N] or None."""

    rows: pd.DataFrame
    truth: np.ndarray
    scores: np.ndarray
    familiarity: np.ndarray | None

    @property
    def groups(self) -> np.ndarray:
        """What must stay together, [N]."""
        return self.rows["group"].to_numpy()


def score(
    model: CxrForImageClassification, processor: CxrImageProcessor, labelled: LabelledImages, split: str
) -> Scored:
    """The scores and familiarity of a split by a model `for_inference`, in fp32."""
    indices, has_familiarity = labelled.indices(split), bool(model.config.familiarity)

    def select(output: Any) -> torch.Tensor:
        return torch.cat([output.logits, output.familiarity[:, None]], dim=1) if has_familiarity else output.logits

    pixels = PixelBatches(labelled.images, processor, model.device)
    outputs = run_model(model, pixels, indices, title=f"evaluating {split}", select=select).double()
    scores = outputs[:, : len(labelled.task.labels)].softmax(dim=1).numpy()
    familiarity = outputs[:, -1].numpy() if has_familiarity else None
    return Scored(labelled.rows.iloc[indices], labelled.truth[indices], scores, familiarity)
