"""The model in other forms: as a native transformers model that needs no code of ours, and as ONNX."""

import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForImageClassification, PreTrainedModel, ViTImageProcessor

from trainer.cxr_model import CxrForImageClassification, CxrImageProcessor
from trainer.errors import UsageError, WorkError
from trainer.files import write_bytes
from trainer.run import Run

NATIVE = ("mobilenet_v2", "resnet")  # transformers' own classes, whose classifier is pooling and one linear layer
CLOSE = 1e-4  # largest difference of a logit that passes, as a proportion of the largest logit where that is above 1


def native_copy(model: CxrForImageClassification, processor: CxrImageProcessor) -> tuple[PreTrainedModel, Any] | None:
    """The same classifier as transformers' own class, with its image processor; None where its head is another.

    One neuron z of a two-label model becomes the rows [0; w]: the logits, and so the scores, stay the same.
    """
    config = model.config
    is_linear = not config.hidden_sizes and config.features == "map" and config.pooling == "avg"
    if not is_linear or config.backbone_config.model_type not in NATIVE:
        return None
    labels = {"id2label": config.id2label, "label2id": config.label2id}
    own = type(config.backbone_config).from_dict({**config.backbone_config.to_dict(), **labels})
    native = AutoModelForImageClassification.from_config(own, dtype=torch.float32).eval()
    native.base_model.load_state_dict(model.backbone.state_dict())
    linear = next(module for module in native.classifier.modules() if isinstance(module, nn.Linear))
    with torch.no_grad():
        for mine, theirs in zip(model.classifier.parameters(), linear.parameters(), strict=True):
            theirs.copy_(torch.cat([torch.zeros_like(mine), mine]) if len(config.id2label) == 2 else mine)
    settings = ("size", "resample", "rescale_factor", "image_mean", "image_std")
    return native, ViTImageProcessor(do_convert_rgb=True, **{name: getattr(processor, name) for name in settings})


def export_onnx(run: Run) -> float:
    """Write onnx/model.onnx (`pixel_values` [batch, 3, H, W] float32 -> `logits` [batch, C]), checked against PyTorch.

    Returns:
        The largest difference of a logit.

    Raises:
        UsageError: what ONNX needs is not installed.
        WorkError: the exported model answers otherwise; nothing is written.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]
    if missing:
        raise UsageError(f"{', '.join(missing)} is not installed: pip install 'cxr-hub[onnx]'")
    import onnxruntime

    model, processor = run.load_model()
    sides = processor.size["height"], processor.size["width"]
    grey = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *sides), dtype=np.uint8))
    values = processor.to_pixel_values(grey).contiguous()
    names: Any = {"input_names": ["pixel_values"], "output_names": ["logits"]}
    batches: Any = {"dynamic_shapes": ({0: torch.export.Dim("batch")},), "dynamo": True, "external_data": False}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        torch.onnx.export(_Logits(model).eval(), (values,), str(file), verbose=False, **names, **batches)
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        difference, size = 0.0, 1.0
        for part in (values, values[:1]):
            (logits,) = session.run(None, {"pixel_values": part.numpy()})
            with torch.inference_mode():
                expected = model(part).logits.numpy()
            difference = max(difference, float(np.abs(logits - expected).max()))
            size = max(size, float(np.abs(expected).max()))
        if difference > CLOSE * size:
            raise WorkError(f"{run.path}: the ONNX model differs from PyTorch by {difference:.1e}; it is not written")
        write_bytes(run.path / "onnx" / "model.onnx", file.read_bytes())
    if run.finished:
        run.write_card()
    return difference


class _Logits(nn.Module):
    def __init__(self, model: CxrForImageClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(pixel_values).logits
        return logits
