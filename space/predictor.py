"""One model: a file in, a prediction, the film and its heat map out. Nothing is kept."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import spaces  # ZeroGPU's own package: it lends a GPU for a call, and must come before torch
except ImportError:
    spaces = None
import numpy as np
import torch
from facts import read_facts
from models import ModelError, ModelSource
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoModelForImageClassification

PREVIEW = 768  # longest side of what is shown, in pixels
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Answer:
    """`prediction` as the command line and the API give it; `film` uint8 [H, W] and `heat` float [h, w] in 0..1, or None."""

    prediction: dict[str, Any]
    film: np.ndarray | None = None
    heat: np.ndarray | None = None


class Predictor:
    """A loaded model and its processor."""

    def __init__(self, source: ModelSource) -> None:
        """Load it.

        Raises:
            ModelError: it cannot be loaded, or weights are missing from it.
        """
        self.task, self.source = source.task, source
        options: dict[str, Any] = {"revision": source.revision, "trust_remote_code": True}
        try:
            self.processor = AutoImageProcessor.from_pretrained(source.model, **options)
            model, info = AutoModelForImageClassification.from_pretrained(source.model, output_loading_info=True, **options)
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise ModelError(f"the {source.task} model {source.model} cannot be loaded: {error}") from error
        if info["missing_keys"]:
            raise ModelError(f"the {source.task} model {source.model} lacks weights: {sorted(info['missing_keys'])[:3]}")
        self.model = model.eval().to(DEVICE)
        self.facts = read_facts(source)
        LOADED[self.task] = self

    @property
    def labels(self) -> list[str]:
        """The answers, in the order of the model's outputs."""
        return [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]

    def __call__(self, path: str | Path) -> Answer:
        """Read and classify one file; a file that cannot be read gives a prediction with an `error`."""
        name = Path(path).name
        try:
            radiograph = self.processor.read(path)
        except (ValueError, ImportError) as error:
            return Answer({"file": name, "error": str(error).removeprefix(f"{path}: ")})
        grey = torch.from_numpy(self.processor.resize(radiograph.pixels).copy()).unsqueeze(0)
        decided, heat = classify(self.task, grey)
        prediction = {"file": name, **decided, "warnings": [*radiograph.warnings, *decided["warnings"]]}
        return Answer(prediction, _preview(radiograph.pixels), heat)


LOADED: dict[str, Predictor] = {}


def _classify(task: str, grey: torch.Tensor) -> tuple[dict[str, Any], np.ndarray]:
    """The decision for one picture uint8 [1, H, W], and the heat map of its label, float [h, w]: one forward pass."""
    predictor = LOADED[task]
    with torch.inference_mode():
        output = predictor.model(predictor.processor.to_pixel_values(grey.to(DEVICE)))
    (decided,) = predictor.model.decide(output)
    return decided, predictor.model.heatmap(output, predictor.labels.index(decided["label"]))[0].cpu().numpy()


# On ZeroGPU the call runs in another process, to which its arguments are sent: a name, not a model.
classify: Callable[[str, torch.Tensor], tuple[dict[str, Any], np.ndarray]] = spaces.GPU(_classify) if spaces else _classify


def _preview(pixels: np.ndarray) -> np.ndarray:
    image = Image.fromarray(pixels)
    image.thumbnail((PREVIEW, PREVIEW))
    return np.asarray(image)
