import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from trainer.cli import main
from trainer.cxr_model import CxrConfig, CxrForImageClassification, CxrImageProcessor, CxrOutput

TINY = {"model_type": "mobilenet_v2", "depth_multiplier": 0.35, "finegrained_output": False}
TWO = {0: "Normal", 1: "Tuberculosis"}
FOUR = dict(enumerate(["COVID", "Lung_Opacity", "Normal", "Viral Pneumonia"]))


def make(labels=TWO, **settings) -> CxrForImageClassification:
    torch.manual_seed(0)
    settings = {"backbone_config": dict(TINY), "feature_size": 448, "id2label": labels, **settings}
    model = CxrForImageClassification(CxrConfig(**settings)).eval()
    for module in model.backbone.modules():  # a fresh network's map is flat: let the statistics give it contrast
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2.0)
            torch.nn.init.uniform_(module.running_var, 0.001, 0.01)
    return model


PIXELS = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_two_labels_are_one_neuron():
    model = make()
    logits = model(PIXELS).logits
    assert model.classifier.out_features == 1
    assert (logits[:, 0] == 0).all()
    assert torch.allclose(logits.softmax(-1)[:, 1], logits[:, 1].sigmoid())


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling": "max"},
        {"hidden_sizes": [16, 8], "input_dropout": 0.25, "dropout": 0.25},
        {"hidden_sizes": [16], "batch_norm": True, "dropout": 0.2},
        {"features": "probabilities", "projection_size": 20, "hidden_sizes": [16]},
    ],
)
def test_every_head_saves_and_loads_to_the_same_logits(settings, tmp_path):
    model = make(FOUR, **settings)
    model.save_pretrained(tmp_path)
    loaded = CxrForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(model(PIXELS).logits, loaded(PIXELS).logits)
    assert loaded.config.id2label == FOUR
    assert not loaded.training


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_close(dtype, run, film):
    full, half = (CxrForImageClassification.from_pretrained(run, **options) for options in ({}, {"dtype": dtype}))
    values = CxrImageProcessor.from_pretrained(run)(film)["pixel_values"]
    assert half.dtype == dtype
    assert (half(values).logits.float().softmax(-1) - full(values).logits.softmax(-1)).abs().max() < 0.01


def test_the_loss_is_the_weighted_mean_not_divided_by_the_weights():
    model = make(FOUR, class_weights=[1.0, 2.0, 3.0, 4.0])
    labels = torch.tensor([3, 0, 1])
    output = model(PIXELS, labels=labels)
    plain = F.cross_entropy(output.logits, labels, reduction="none")
    assert torch.allclose(output.loss, (plain * torch.tensor([4.0, 1.0, 2.0])).mean())


def test_labels_may_be_probabilities_and_their_loss_is_weighted():
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    model, soft = make(FOUR, class_weights=weights.tolist()), torch.rand(3, 4).softmax(-1)
    output = model(PIXELS, labels=soft)
    assert torch.allclose(output.loss, -(soft * weights * output.logits.log_softmax(-1)).sum(-1).mean())


def test_the_base_model_is_the_backbone_and_a_new_head_of_two_has_two_logits():
    """What recipes for transformers' own classifiers do: freeze `base_model`, put a linear layer in."""
    model = make()
    model.base_model.requires_grad_(False)
    assert all(parameter.requires_grad for parameter in model.classifier.parameters())
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    model.classifier = torch.nn.Linear(448, 2)
    assert model(PIXELS).logits.shape == (3, 2)


def test_heat_map_is_the_gradient_of_the_logit_margin():
    model = make(FOUR)
    with torch.inference_mode():
        output = model(PIXELS)
    heat = model.heatmap(output, 2)
    assert heat.shape == output.feature_map.shape[:1] + output.feature_map.shape[2:]
    assert heat.min() >= 0
    assert heat.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1, 1])
    fmap = output.feature_map.clone().requires_grad_()
    logits = model.classify([fmap])
    target = logits[:, 2] - logits[:, [0, 1, 3]].logsumexp(1)
    (gradient,) = torch.autograd.grad(target.sum(), fmap)
    cam = (gradient.mean((2, 3), keepdim=True) * fmap).sum(1).relu()
    assert torch.allclose(heat, cam / cam.amax((1, 2), keepdim=True), atol=1e-6)


RESNET = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}


@pytest.mark.parametrize(("backbone", "size", "layer"), [(TINY, 448, "conv_1x1"), (RESNET, 16, "encoder.stages.1")])
@pytest.mark.parametrize("labels", [TWO, FOUR])
def test_heat_map_equals_captums_grad_cam(backbone, size, layer, labels):
    captum = pytest.importorskip("captum.attr")
    model = make(labels, backbone_config=dict(backbone), feature_size=size)
    seen = 0
    for index in labels:

        def margin(values, index=index):
            logits = model(values).logits
            return logits[:, index] - logits[:, [other for other in labels if other != index]].logsumexp(1)

        theirs = captum.LayerGradCam(margin, model.backbone.get_submodule(layer)).attribute(
            PIXELS, relu_attributions=True
        )[:, 0]
        peak = theirs.amax((1, 2), keepdim=True)
        with torch.inference_mode():
            ours = model.heatmap(model(PIXELS), index)
        assert (ours - theirs / peak.clamp_min(1e-30)).abs().max() < 1e-5
        seen += int((peak > 0).sum())
    assert seen >= len(PIXELS)  # where one label's map is empty the others' is not


def test_heat_map_of_both_labels_and_of_one_label_an_image():
    model = make()
    output = model(PIXELS)
    each = model.heatmap(output, torch.tensor([0, 1, 0]))
    assert torch.equal(each[1], model.heatmap(output, 1)[1])
    assert torch.equal(each[0], model.heatmap(output, 0)[0])
    flat = CxrOutput(logits=output.logits, feature_map=torch.zeros_like(output.feature_map))
    assert (model.heatmap(flat, 1) == 0).all()


def test_decision_by_argmax_and_by_operating_point():
    model = make()
    output = CxrOutput(logits=torch.tensor([[0.0, -0.5], [0.0, 0.5]]))
    assert [answer["label"] for answer in model.decide(output)] == ["Normal", "Tuberculosis"]
    model.config.operating_point = {"name": "screening", "label": "Tuberculosis", "threshold": 0.31}
    first, second = model.decide(output)
    assert first["label"] == second["label"] == "Tuberculosis"
    assert first["decision"] == {"name": "screening", "label": "Tuberculosis", "threshold": 0.31, "positive": True}
    many = make(FOUR)
    logits = torch.tensor([[2.0, 1.0, 0.0, 0.0]])
    assert many.decide(CxrOutput(logits=logits))[0]["label"] == "COVID"
    many.config.operating_point = {"name": "x", "label": "Lung_Opacity", "threshold": 0.2}
    assert many.decide(CxrOutput(logits=logits))[0]["label"] == "Lung_Opacity"
    many.config.operating_point = {"name": "x", "label": "COVID", "threshold": 0.9}
    assert many.decide(CxrOutput(logits=logits))[0]["label"] == "Lung_Opacity"


def test_frozen_backbones_stay_in_eval_mode_and_statistics_stay():
    model = make()
    model.train()
    norms = [module for module in model.backbone.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert model.head.training
    assert model.backbone.training
    assert not any(norm.training for norm in norms)
    model.backbone.requires_grad_(False)
    model.train()
    assert not model.backbone.training
    model.backbone.requires_grad_(True)
    model.update_statistics = True
    model.train()
    assert all(norm.training for norm in norms)
    assert all(norm.momentum == pytest.approx(0.1) for norm in norms)  # transformers sets .997


def test_missing_or_foreign_weights_never_load(tmp_path):
    make().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    name = "classifier.weight"
    for change, said in (({name: None}, "missing_keys"), ({"extra.weight": torch.zeros(2)}, "unexpected_keys")):
        changed = {key: value for key, value in {**weights, **change}.items() if value is not None}
        save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(OSError, match=said):
            CxrForImageClassification.from_pretrained(tmp_path)
    save_file({**weights, name: torch.zeros(1, 3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises((OSError, RuntimeError)):
        CxrForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["classifier.bias", "backbone.conv_stem.first_conv.normalization.running_var"])
def test_weights_that_are_not_finite_never_load(name, value, dtype, tmp_path):
    """Whatever tensor holds the value, and wherever in it: the error names the tensor. Whole numbers and what is empty pass."""
    make().to(dtype).save_pretrained(tmp_path)
    assert CxrForImageClassification.from_pretrained(tmp_path, dtype=dtype).dtype == dtype
    weights = load_file(tmp_path / "model.safetensors")
    weights[name].flatten()[-1] = value
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OSError, match=rf"not finite: {name}"):
        CxrForImageClassification.from_pretrained(tmp_path, dtype=dtype)


@pytest.mark.parametrize("command", ["predict", "evaluate", "audit", "export", "push"])
def test_no_command_uses_weights_that_are_not_finite(command, run, film, phantoms, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(run, broken, ignore=shutil.ignore_patterns("checkpoints"))
    weights = load_file(broken / "model.safetensors")
    save_file(
        {**weights, "classifier.bias": torch.tensor([float("nan")])},
        broken / "model.safetensors",
        metadata={"format": "pt"},
    )
    data = ["--data", str(phantoms)]
    more = {
        "predict": [str(film)],
        "evaluate": data,
        "audit": data,
        "export": [],
        "push": ["--repo-id", "org/tb", "--licence", "mit", "--dry-run"],
    }
    assert main([command, str(broken), *more[command]]) == 2
    shown = capsys.readouterr()
    assert "not finite: classifier.bias" in shown.err
    assert shown.err.splitlines()[-1].startswith("cxr: ")
    assert not shown.out


def test_dropped_modules_carry_no_weights(tmp_path):
    model = make(drop_modules=["layer.15.reduce_1x1"], feature_size=448)
    assert not any(key.startswith("backbone.layer.15.reduce_1x1") for key in model.state_dict())


def test_a_newer_format_is_refused(tmp_path):
    make().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "cxr_version": 99}))
    with pytest.raises(ValueError, match="format 99"):
        CxrForImageClassification.from_pretrained(tmp_path)


def test_a_loaded_model_saves_its_code_along(run, tmp_path):
    from transformers import AutoModelForImageClassification

    copy = tmp_path / "one"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints"))
    model = AutoModelForImageClassification.from_pretrained(copy, trust_remote_code=True)
    model.save_pretrained(tmp_path / "two")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "two", trust_remote_code=True)
    assert torch.equal(model(PIXELS).logits, again(PIXELS).logits)


def test_a_new_head_is_made_only_where_it_is_asked_for(tmp_path):
    point = {"name": "x", "label": "Tuberculosis", "threshold": 0.3}
    make(operating_point=point, class_weights=[1.0, 2.0]).save_pretrained(tmp_path)
    with pytest.raises((OSError, RuntimeError)):
        CxrForImageClassification.from_pretrained(tmp_path, num_labels=3)
    model = CxrForImageClassification.from_pretrained(tmp_path, num_labels=3, ignore_mismatched_sizes=True)
    output = model(PIXELS, labels=torch.tensor([0, 1, 2]))
    assert output.logits.shape == (3, 3)
    assert output.loss.isfinite()
    assert {answer["decision"]["name"] for answer in model.decide(output)} == {"argmax"}  # the old threshold is gone


def test_what_is_saved_names_code_that_lies_beside_it_and_outputs_a_trainer_leaves_out(tmp_path):
    make().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (tmp_path / f"{config['custom_pipelines']['image-classification']['impl'].split('.')[0]}.py").exists()
    assert CxrConfig.keys_to_ignore_at_inference == ["familiarity", "feature_map", "maps", "lungs", "box", "lesions"]


def test_older_libraries_are_refused_by_name(monkeypatch):
    from importlib import reload

    import transformers

    from trainer.cxr_model import versions_cxr

    monkeypatch.setattr(transformers, "__version__", "5.0.0")
    with pytest.raises(ImportError, match=r"needs transformers>=5\.17, here is 5\.0\.0: pip install"):
        reload(versions_cxr)
    monkeypatch.setattr(transformers, "__version__", "5.100.0.dev0")
    reload(versions_cxr)


def test_a_backbone_that_does_not_fit_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="makes no backbone 'resnt'"):
        CxrConfig(backbone_config={"model_type": "resnt"})
    with pytest.raises(ValueError, match="takes images of 1 channels"):
        make(backbone_config={**RESNET, "num_channels": 1}, feature_size=16)


@pytest.mark.parametrize("settings", [{"labels": {0: "ill"}}, {"problem_type": "multi_label_classification"}])
def test_what_the_loss_cannot_train_is_refused(settings):
    with pytest.raises(ValueError, match="2 or more labels"):
        make(**settings)


def test_labels_may_have_keys_of_text_as_in_json(tmp_path):
    make().save_pretrained(tmp_path)
    loaded = CxrForImageClassification.from_pretrained(tmp_path, id2label={"0": "no", "1": "yes"})
    assert loaded.labels == ("no", "yes")


def test_a_size_is_a_number_or_both_sides():
    assert CxrImageProcessor(size=96).size == CxrImageProcessor(size=(96, 96)).size == {"height": 96, "width": 96}
    for size in ({"shortest_edge": 96}, {"height": 96}):
        with pytest.raises(ValueError, match="height"):
            CxrImageProcessor(size=size)


def test_a_batch_is_an_array_and_no_image_is_told():
    batch = torch.randint(0, 255, (2, 70, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    processor = CxrImageProcessor()
    one_by_one = processor(list(batch))["pixel_values"]
    assert torch.equal(processor(batch)["pixel_values"], one_by_one)
    assert torch.equal(processor(batch.numpy())["pixel_values"], one_by_one)
    with pytest.raises(ValueError, match="no image"):
        processor([])
