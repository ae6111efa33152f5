"""Poisoned models: refused in a sentence by the command line and by the Space, and no code of theirs runs."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.cli import main


class Trap:
    """A pickle that leaves a file where it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def change(run: Path, name: str, **values: object) -> None:
    content = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps({**content, **values}))


def weights(run: Path, **tensors: torch.Tensor | None) -> None:
    changed = {
        **load_file(run / "model.safetensors"),
        **{name.replace("__", "."): one for name, one in tensors.items()},
    }
    kept = {name: tensor for name, tensor in changed.items() if tensor is not None}
    save_file(kept, run / "model.safetensors", metadata={"format": "pt"})


def pickled(run: Path) -> None:
    (run / "model.safetensors").unlink()
    (run / "pytorch_model.bin").write_bytes(pickle.dumps({"classifier.bias": Trap(run.parent / "mark")}))


def no_json(run: Path) -> None:
    (run / "config.json").write_text("{" * 100_000)


POISONS = {
    "pickled weights": pickled,
    "a config that is none": no_json,
    "a huge head": lambda run: change(run, "config.json", hidden_sizes=[10**9]),
    "a large head": lambda run: change(run, "config.json", hidden_sizes=[60_000, 60_000]),
    "a head of many layers": lambda run: change(run, "config.json", hidden_sizes=[1] * 10_000),
    "a configuration of 3 MB": lambda run: change(run, "config.json", note="x" * 3_000_000),
    "a head of words": lambda run: change(run, "config.json", hidden_sizes=["../../etc/passwd"]),
    "a huge backbone": lambda run: change(
        run, "config.json", backbone_config={"model_type": "resnet", "depths": [10**7]}
    ),
    "a backbone from elsewhere": lambda run: change(
        run, "config.json", backbone_config={"model_type": "timm_wrapper", "architecture": "hf-hub:evil/model"}
    ),
    "another backbone": lambda run: change(run, "config.json", backbone_config={"model_type": "resnet"}),
    "swapped labels": lambda run: change(
        run, "config.json", id2label={"0": "Tuberculosis", "1": "Normal"}, label2id={"Tuberculosis": 0, "Normal": 1}
    ),
    "a missing tensor": lambda run: weights(run, classifier__bias=None),
    "a tensor too many": lambda run: weights(run, extra=torch.zeros(3)),
    "another shape": lambda run: weights(run, classifier__weight=torch.zeros(1, 3)),
    "no number": lambda run: weights(run, classifier__bias=torch.full((1,), float("nan"))),
    "code of elsewhere": lambda run: change(
        run, "config.json", auto_map={"AutoModelForImageClassification": "evil/model--modeling_cxr.Evil"}
    ),
    "code of elsewhere for the processor": lambda run: change(
        run, "preprocessor_config.json", auto_map={"AutoImageProcessor": ["evil/model--processing.Evil", None]}
    ),
    "a huge input": lambda run: change(run, "preprocessor_config.json", size={"height": 100_000, "width": 100_000}),
    "more labels than any": lambda run: change(run, "config.json", num_labels=10**9),
    "a threshold that is none": lambda run: change(
        run, "config.json", operating_point={"name": "x", "label": "Tuberculosis", "threshold": float("nan")}
    ),
    "a mean of another size": lambda run: change(run, "preprocessor_config.json", image_mean=[0.5] * 5),
    "a scale that is none": lambda run: change(run, "preprocessor_config.json", rescale_factor=float("nan")),
    "a recipe that is none": lambda run: (run / "recipe.json").write_text("[" * 100_000),
    "a recipe of elsewhere": lambda run: (run / "recipe.json").write_text("[]"),
    "no input": lambda run: change(run, "preprocessor_config.json", size={"height": 0, "width": -5}),
}


@pytest.fixture
def poisoned(run, tmp_path):
    copy = tmp_path / "poisoned"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints", "native"))
    return copy


@pytest.mark.parametrize("name", POISONS)
def test_a_poisoned_model_is_refused_in_a_sentence(name, poisoned, film, phantoms, capsys):
    POISONS[name](poisoned)
    for words in (
        ["predict", str(poisoned), str(film)],
        ["evaluate", str(poisoned), "--data", str(phantoms)],
    ):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert str(poisoned) in said
        assert "Traceback" not in said
    assert not (poisoned.parent / "mark").exists()


def test_what_the_configuration_betrays_is_refused_before_anything_is_loaded(poisoned):
    POISONS["code of elsewhere"](poisoned)
    words = f"['predict', {str(poisoned)!r}, 'film.png']"
    code = f"import sys; from trainer.cli import main; assert main({words}) == 2; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("name", POISONS)
def test_the_space_refuses_it_too(name, poisoned, monkeypatch):
    POISONS[name](poisoned)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "space"))
    from config import ModelError, ModelSource
    from predictor import LOADED, Predictor

    with pytest.raises(ModelError, match="tb model"):
        Predictor(ModelSource("tb", str(poisoned)))
    LOADED.clear()
    assert not (poisoned.parent / "mark").exists()


@pytest.mark.parametrize("name", POISONS)
def test_it_is_not_published(name, poisoned, capsys):
    POISONS[name](poisoned)
    words = ["push", str(poisoned), "--repo-id", "me/model", "--licence", "mit", "--dry-run"]
    assert main(words) in (1, 2)  # 1 where a file is damaged
    said = capsys.readouterr().err
    assert str(poisoned) in said
    assert "Traceback" not in said
