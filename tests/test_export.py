"""The same answers without our code: a native copy, and ONNX."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from tests.cxr_model.test_model import FOUR, PIXELS, RESNET, TINY, TWO, make
from trainer.cli import main
from trainer.cxr_model import CxrImageProcessor
from trainer.export import native_copy
from trainer.run import Run


@pytest.mark.parametrize(("backbone", "size"), [(TINY, 448), (RESNET, 16)])
@pytest.mark.parametrize("labels", [TWO, FOUR])
def test_a_native_copy_gives_the_same_logits(backbone, size, labels, tmp_path):
    model = make(labels, backbone_config=dict(backbone), feature_size=size)
    native, _ = native_copy(model, CxrImageProcessor())
    native.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded).__module__.startswith("transformers.")
    assert loaded.config.id2label == labels
    with torch.inference_mode():
        assert torch.allclose(loaded(PIXELS).logits, model(PIXELS).logits, atol=1e-5)


@pytest.mark.parametrize(
    "settings", [{"hidden_sizes": [16]}, {"pooling": "max"}, {"features": "probabilities", "projection_size": 20}]
)
def test_another_head_has_no_native_copy(settings):
    assert native_copy(make(**settings), CxrImageProcessor()) is None


def test_the_native_copy_of_a_run_scores_as_the_run(run, film, capsys):
    assert main(["predict", str(run), str(film), "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)["scores"]
    native, processor = native_copy(*Run(run).load_model())
    with torch.inference_mode():
        scores = native(**processor(Image.open(film), return_tensors="pt")).logits.softmax(-1)[0].tolist()
    assert dict(zip(ours, scores, strict=True)) == pytest.approx(ours, abs=0.01)  # another library's resize


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Path:
    """A copy of a run with its ONNX model."""
    pytest.importorskip("onnxscript")
    copy = tmp_path_factory.mktemp("exported") / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    assert main(["export", str(copy)]) == 0
    return copy


def test_onnx_answers_as_pytorch(exported, phantoms):
    onnxruntime = pytest.importorskip("onnxruntime")
    model, processor = Run(exported).load_model()
    session = onnxruntime.InferenceSession(exported / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [one.name for one in session.get_inputs()] == ["pixel_values"]
    assert [one.name for one in session.get_outputs()] == ["logits"]
    films = sorted(map(str, phantoms.rglob("*.png")))[:5]  # more than the export was made with
    values = processor(films, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model(values).logits.numpy()
    (logits,) = session.run(None, {"pixel_values": values.numpy()})
    assert np.abs(logits - expected).max() < 1e-4
    assert "`onnx/model.onnx` takes `pixel_values` (float32 [batch, 3, 64, 64]" in (exported / "README.md").read_text()


def test_large_logits_may_differ_more(exported, tmp_path):
    """Rounding grows with them: a model that was sure, or is asked about what it has never seen."""
    copy = tmp_path / "run"
    shutil.copytree(exported, copy)
    weights = load_file(copy / "model.safetensors")
    weights |= {name: tensor * 1e6 for name, tensor in weights.items() if name.startswith("classifier.")}
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert main(["export", str(copy)]) == 0


def test_a_model_that_exports_otherwise_is_not_written(exported, run, tmp_path, monkeypatch, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    content = (exported / "onnx" / "model.onnx").read_bytes()
    monkeypatch.setattr("torch.onnx.export", lambda model, values, file, **options: Path(file).write_bytes(content))
    assert main(["export", str(copy)]) == 0
    assert "of PyTorch's" in capsys.readouterr().out
    shutil.rmtree(copy / "onnx")
    weights = load_file(copy / "model.safetensors")
    save_file(
        {**weights, "classifier.bias": weights["classifier.bias"] + 1}, copy / "model.safetensors", {"format": "pt"}
    )
    assert main(["export", str(copy)]) == 1
    assert "differs from PyTorch by 1.0e+00" in capsys.readouterr().err
    assert not (copy / "onnx").exists()
    assert main(["export", str(tmp_path / "nowhere")]) == 2
