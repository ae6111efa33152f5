"""Heads in closed form: they unlearn how hospitals differ."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.conftest import TINY
from trainer.cli import main
from trainer.recipes import get_recipe
from trainer.run import Run
from trainer.training.whitened import count_alike, fit_head, fit_views, sample_healthy
from trainer.training.whitening import fit_whitening

RECIPE = get_recipe("tb-finetuned", head="whitened")


def hospitals(generator, shifts, size=60, features=40, signal=1.0):
    """Films of several hospitals: the label in the first feature; how exposed a film is in twenty others at once, where
    hospitals differ by their shift.
    """
    parts = []
    for number, (shift, prevalence) in enumerate(shifts):
        truth = (generator.random(size) < prevalence).astype(int)
        own = generator.normal(size=(size, features))
        own[:, 0] += signal * truth
        own[:, 1:21] += generator.normal(shift, 2, size=(size, 1))
        parts.append((own, truth, np.full(size, f"hospital-{number}")))
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


@pytest.mark.parametrize("size", [30, 300])  # fewer than films, and more
def test_the_whitening_is_the_inverse_root_of_the_identity_and_the_covariance(size):
    features, _, names = hospitals(np.random.default_rng(0), [(0, 0), (2, 0), (-1, 0)], features=size)
    whitening = fit_whitening(features, names, strength=0.7)
    groups = [features[names == name] for name in sorted(set(names))]
    within = np.mean([np.cov(group.T, bias=True) for group in groups], axis=0)
    between = np.cov(np.stack([group.mean(axis=0) for group in groups]).T, bias=True)
    values, vectors = np.linalg.eigh(np.eye(size) + (within + between) / 0.7)
    dense = (vectors / np.sqrt(values)) @ vectors.T
    assert np.allclose(whitening(np.eye(size)), dense, atol=1e-5)


def test_a_head_is_one_linear_layer_on_the_features_as_they_are():
    generator = np.random.default_rng(1)
    features, truth, names = hospitals(generator, [(0, 0.5), (3, 0.5)])
    weights, bias = fit_head(
        features, truth, np.ones(120), features[truth == 0], names[truth == 0], replace(RECIPE, ridge=0.01)
    )
    assert weights.shape == (1, features.shape[1])
    assert bias.shape == (1,)
    assert roc_auc_score(truth, (features @ weights.T + bias)[:, 0]) > 0.7


def test_what_tells_hospitals_apart_is_unlearned():
    generator = np.random.default_rng(2)
    features, truth, names = hospitals(generator, [(-4, 0.15), (4, 0.85), (0, 0.0)])
    sizes = {}
    for strength in (1e6, 0.3):  # next to none, and much
        recipe = replace(RECIPE, whitening=strength)
        weights, _ = fit_head(features, truth, np.ones(180), features[truth == 0], names[truth == 0], recipe)
        sizes[strength] = abs(weights[0, 1:21].sum() / weights[0, 0])
    assert sizes[0.3] < sizes[1e6] / 2


def test_each_label_of_each_collection_counts_alike():
    truth, names = np.array([0, 0, 0, 1, 0, 1]), np.array(["one"] * 4 + ["other"] * 2)
    assert np.allclose(count_alike(truth, names), [0.5, 0.5, 0.5, 1.5, 1.5, 1.5])


def test_collections_of_one_label_teach_no_label():
    generator = np.random.default_rng(3)
    features, truth, names = hospitals(generator, [(0, 0.5), (5, 0.0), (-5, 1.0)])
    said = []
    healthy = sample_healthy(truth, names, ("Normal", "Tuberculosis"), 0)
    both = fit_views(features, truth, names, healthy, RECIPE, said.append)
    kept = names != "hospital-2"
    fewer = np.cumsum(kept)[healthy] - 1
    without = fit_views(features[kept], truth[kept], names[kept], fewer, RECIPE, said.append)
    assert np.allclose(both[0], without[0])
    assert np.allclose(both[1], without[1])
    assert "learned from 60 films of hospital-0" in said[0]


def test_films_of_no_named_collection_are_said_to_be_of_none():
    features, truth, names = hospitals(np.random.default_rng(4), [(0, 0.5)])
    said = []
    fit_views(features, truth, np.full(len(names), ""), np.flatnonzero(truth == 0), RECIPE, said.append)
    healthy = int((truth == 0).sum())
    assert said == [f"head: learned from 60 films; whitened by {healthy} without a finding"]


def settings(**changes: object) -> list[str]:
    """The words of a training of a head in closed form, in seconds."""
    chosen = {
        "head": "whitened", "views": ["film", "lungs", "lungs-equalised"], "strides": [16, 32], "pooling": "avg+max+std",
        "level": 48, "image_size": 96, "unfreeze": "none", "mixed_precision": "no", **changes,
    }  # fmt: skip
    texts = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in chosen.items()]
    return ["--no-pretrained", "--backbone", str(TINY), *(word for text in texts for word in ("--set", text))]


@pytest.fixture(scope="module")
def whitened(phantoms, tmp_path_factory):
    """A run whose head was fitted on what a model that looks for lungs makes of phantoms."""
    output = tmp_path_factory.mktemp("whitened") / "run"
    words = ["train", "tb-finetuned", "--data", str(phantoms), "--output", str(output), *settings()]
    assert main(words) == 0
    return output, words


def test_a_whitened_run_is_a_complete_run(whitened, film, capsys):
    output, words = whitened
    run = Run(output)
    assert run.finished
    assert len(run.read_table("history.csv")) == 1
    model, _ = run.load_model()
    assert model.config.views == ["film", "lungs", "lungs-equalised"]
    assert not (output / "native").exists()
    capsys.readouterr()
    assert main(["predict", str(output), str(film), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["scores"]) == {"Normal", "Tuberculosis"}
    assert main([*words, "--resume"]) == 0


@pytest.mark.slow  # test_lesions exports such a run with a lesion head beside it
def test_onnx_looks_for_the_lungs_too(whitened):
    pytest.importorskip("onnxscript")
    output, _ = whitened
    assert main(["export", str(output)]) == 0
    assert (output / "onnx" / "model.onnx").exists()


def test_the_lungs_stay_as_they_ship(whitened):
    from safetensors.torch import load_file

    from trainer.training.build import LUNGS

    model, _ = Run(whitened[0]).load_model()
    shipped = load_file(LUNGS)
    for name, tensor in model.views.network.state_dict().items():
        assert torch.equal(tensor, shipped[name].to(tensor.dtype))
