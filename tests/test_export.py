"""The same answers without our code: a native copy, and ONNX."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification

from tests.conftest import QUICK
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


def test_onnx_answers_as_pytorch(covid_run, phantoms, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    copy = tmp_path / "run"
    shutil.copytree(covid_run, copy)
    assert main(["export", str(copy)]) == 0
    assert "of PyTorch's" in capsys.readouterr().out
    model, processor = Run(copy).load_model()
    films = sorted(phantoms.rglob("*.png"))[:5]
    session = onnxruntime.InferenceSession(copy / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [found.name for found in session.get_inputs()] == ["pixel_values"]
    assert [found.name for found in session.get_outputs()] == ["logits"]
    values = processor([str(film) for film in films], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        expected = model(values).logits.numpy()
    (found,) = session.run(None, {"pixel_values": values.numpy()})
    assert np.abs(found - expected).max() < 1e-4
    assert "`onnx/model.onnx` takes `pixel_values` (float32 [batch, 3, 64, 64]" in (copy / "README.md").read_text()


def test_a_model_that_exports_otherwise_is_not_written(run, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    monkeypatch.setattr("trainer.export.CLOSE", -1.0)
    assert main(["export", str(copy)]) == 1
    assert not (copy / "onnx").exists()
    assert main(["export", str(tmp_path / "nowhere")]) == 2


def test_a_head_of_its_own_leaves_no_native_folder(phantoms, tmp_path):
    folder = tmp_path / "run"
    words = [
        "train",
        "tb",
        "--data",
        str(phantoms),
        "--output",
        str(folder),
        *QUICK,
        "--set",
        "epochs=1",
        "--set",
        "hidden_sizes=[8]",
    ]
    assert main(words) == 0
    assert not (folder / "native").exists()
    assert "native" not in (folder / "README.md").read_text()
