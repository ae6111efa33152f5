"""The lungs: found, cropped, equalised; a model that looks for them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from tests.cxr_model.test_model import TINY, TWO, make
from trainer.cxr_model import CxrForImageClassification
from trainer.cxr_model.lungs_cxr import LungNetwork, equalise, lung_box, lungs_are_plausible, resample
from trainer.data.phantom import draw_phantom
from trainer.training.build import LUNGS

VIEWS = ["film", "lungs", "lungs-equalised"]
SETTINGS = {"views": VIEWS, "level": 32, "strides": [16, 32], "pooling": "avg+max+std", "pooled_size": 3 * (32 + 448)}


def seeing(**settings) -> CxrForImageClassification:
    """A small model that looks for the lungs with the network that ships."""
    model = make(TWO, backbone_config=dict(TINY), **{**SETTINGS, **settings})
    model.views.network.load_state_dict({name: tensor.float() for name, tensor in load_file(LUNGS).items()})
    return model


def drawn(count: int, side: int = 64, label: str = "Normal") -> tuple[torch.Tensor, np.ndarray]:
    """Phantoms as pixel values [N, 3, side, side], and their lungs bool [N, H, W]."""
    phantoms = [draw_phantom(label, np.random.default_rng(seed)) for seed in range(count)]
    grey = np.stack([np.asarray(Image.fromarray(one.pixels).resize((side, side))) for one in phantoms])
    values = torch.from_numpy(grey).float()[:, None].expand(-1, 3, -1, -1) / 127.5 - 1
    return values.contiguous(), np.stack([one.lungs for one in phantoms])


@given(
    st.integers(20, 90), st.integers(20, 90), st.integers(8, 100),
    st.tuples(*[st.floats(0, 0.4)] * 2), st.tuples(*[st.floats(0.5, 1)] * 2),
)  # fmt: skip
def test_a_crop_is_resampled_as_pillow_does(height, width, size, low, high):
    pixels = np.random.default_rng(height * width).random((height, width), np.float32)
    box = torch.tensor([[*low, *high]])
    expected = Image.fromarray(pixels).resize(
        (size, size),
        Image.Resampling.BILINEAR,
        box=(low[0] * width, low[1] * height, high[0] * width, high[1] * height),
    )
    crop = resample(torch.from_numpy(pixels)[None, None], box, size)[0, 0]
    inner = slice(1 + size // 8, -1 - size // 8)  # at the edges Pillow does not look outside of the box
    assert np.allclose(crop[inner, inner], np.asarray(expected)[inner, inner], atol=2e-3)


def test_the_box_surrounds_the_lungs_and_ignores_specks():
    fields = torch.zeros(2, 1, 100, 100)
    fields[:, :, 20:80, 10:40] = fields[:, :, 20:80, 60:90] = 1
    fields[1, :, 2:4, 96:99] = 1  # less than a hundredth of the lungs
    boxes = lung_box(fields, tail=0.01, margin=0.0)
    assert torch.allclose(boxes[0], torch.tensor([0.1, 0.2, 0.9, 0.8]), atol=0.02)
    assert torch.allclose(boxes[1], boxes[0], atol=0.03)
    wider = lung_box(fields, margin=0.1)
    assert (wider[0, :2] < boxes[0, :2]).all()
    assert (wider[0, 2:] > boxes[0, 2:]).all()
    assert ((wider >= 0) & (wider <= 1)).all()


@given(st.floats(0.3, 3.0), st.floats(0.2, 1.0))
def test_equalised_lungs_look_alike_under_any_exposure(gamma, contrast):
    generator = torch.Generator().manual_seed(0)
    grey = torch.nn.functional.interpolate(torch.rand(1, 1, 8, 8, generator=generator), 64, mode="bilinear")
    fields = torch.zeros(1, 1, 64, 64)
    fields[:, :, 10:50, 10:50] = 1
    first, second = equalise(grey, fields), equalise(contrast * grey**gamma, fields)
    inside = fields > 0.5
    assert (first - second).abs()[inside].mean() < 0.06  # as exact as 64 levels of fewer are
    assert first[inside].quantile(torch.tensor([0.25, 0.5, 0.75])).tolist() == pytest.approx(
        [0.25, 0.5, 0.75], abs=0.03
    )


def test_the_network_that_ships_finds_the_lungs_of_phantoms():
    values, lungs = drawn(8, side=224)
    network = seeing().views
    with torch.inference_mode():
        fields = network(*[values[:, :1] / 2 + 0.5] * 2)[1]
    size = lungs.shape[1:]
    found = torch.nn.functional.interpolate(fields, size, mode="bilinear")[:, 0].numpy() > 0.5
    dice = 2 * (found & lungs).sum(axis=(1, 2)) / (found.sum(axis=(1, 2)) + lungs.sum(axis=(1, 2)))
    assert dice.min() > 0.8  # of drawings: it has seen radiographs alone
    assert lungs_are_plausible(fields[:, 0]).all()
    assert sum(parameter.numel() for parameter in LungNetwork().parameters()) <= 500_000


def test_what_holds_no_lungs_is_said():
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blank = torch.zeros(1, 3, 64, 64)
    model = seeing()
    with torch.inference_mode():
        for values in (noise, blank):
            (row,) = model.decide(model(values))
            assert row["warnings"] == ["no-lungs"]
        (row,) = model.decide(model(drawn(1)[0]))
        assert row["warnings"] == []


def test_the_logits_are_the_mean_of_a_head_for_each_view():
    model, (values, _) = seeing(), drawn(3)
    with torch.inference_mode():
        output = model(values)
        features = model.pool(output.maps).unflatten(1, (3, -1))
        weights = model.classifier.weight.unflatten(1, (3, -1))
        logits = torch.einsum("bvf,kvf->bk", features, weights) + model.classifier.bias
    assert torch.allclose(output.logits[:, 1:], logits, atol=1e-4)
    assert output.feature_map.shape == (3, 448, 2, 2)
    assert [each.shape[1] for each in output.maps] == [3, 3]
    assert output.lungs.shape == (3, 128, 128)
    assert output.box.shape == (3, 4)


def test_the_heat_map_lies_on_the_film():
    model, (values, _) = seeing(), drawn(2)
    heat = model.heatmap(model(values), 1)
    assert heat.shape == (2, 4, 4)
    assert ((heat >= 0) & (heat <= 1)).all()
    lungs_alone = model._on_film(torch.ones(2, 3, 2, 2), torch.tensor([[0.5, 0.0, 1.0, 0.5]] * 2), VIEWS)
    assert lungs_alone[:, 2:, :].amax() == lungs_alone[:, :, :2].amax() == 1  # the film alone
    assert torch.allclose(lungs_alone[:, :2, 2:], torch.tensor(3.0), atol=1e-3)


def test_such_a_model_saves_and_loads_to_the_same_answers(tmp_path):
    model, (values, _) = seeing(), drawn(2)
    model.save_pretrained(tmp_path)
    loaded = CxrForImageClassification.from_pretrained(tmp_path)
    assert torch.allclose(loaded(values).logits, model(values).logits, atol=1e-5)
    assert (tmp_path / "lungs_cxr.py").exists()


@pytest.mark.parametrize("views", [["lungs"], ["film", "border"]])
def test_views_that_cannot_be_are_refused(views):
    with pytest.raises(ValueError, match="film first"):
        seeing(views=views)


def test_the_lungs_are_the_same_in_every_precision():
    model, (values, _) = seeing(), drawn(2)
    with torch.inference_mode():
        expected = model(values)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(values)
        half = model.to(torch.bfloat16)(values)
    assert half.logits.isfinite().all()
    assert (half.box - expected.box).abs().max() < 0.05
    assert torch.equal(rounded.box, expected.box)
    assert torch.equal(rounded.lungs, expected.lungs)
    assert rounded.logits.isfinite().all()


def test_the_lungs_of_a_hidden_film_are_those_of_the_film():
    model, (values, _) = seeing(), drawn(2)
    hidden = values.clone()
    hidden[..., 16:48, 8:56] = 0.2
    with torch.inference_mode():
        expected, found = model(values), model(hidden, lungs_of=values)
        assert torch.equal(found.box, expected.box)
        assert not torch.equal(model(hidden).box, expected.box)
        assert not torch.allclose(found.logits, expected.logits)


def test_training_jitters_the_box_and_leaves_the_lung_network_alone():
    model, (values, _) = seeing(), drawn(4)
    expected = model.eval()(values).box
    before = {name: tensor.clone() for name, tensor in model.views.network.state_dict().items()}
    one, other = (model.train()(values).box for _ in range(2))
    assert not torch.equal(one, other)
    assert ((one - expected).abs() < 0.06).all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.views.network.state_dict().items())
