"""What is unlike the training radiographs is told, by the model itself and by its processor."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.conftest import SHARED
from tests.cxr_model.test_model import make
from trainer.commands.predict import predict
from trainer.cxr_model import CxrForImageClassification, CxrImageProcessor, thumbnail
from trainer.evaluation.familiarity import fit_familiarity, mean_thumbnail
from trainer.run import Run


@pytest.fixture(scope="module")
def fitted():
    """A model whose familiarity is fitted on textures in a thin cloud; and what draws more of these."""
    rng = np.random.default_rng(0)
    model = make()
    size = model.config.feature_size
    mixing = rng.normal(0, 1, (5, size))

    def draw(count: int) -> np.ndarray:
        found = 3 + rng.normal(0, 0.1, (count, 5)) @ mixing + rng.normal(0, 0.01, (count, size))
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    fit_familiarity(model, draw(1500), torch.from_numpy(draw(1000)))
    return model, draw


def known(model, features) -> np.ndarray:
    """Asked about maps of 2 x 2 in which each feature varies about a mean by what is wanted."""
    sign = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    return model.familiarity(5 + torch.from_numpy(features)[:, :, None, None] * sign).numpy()


def test_one_in_a_hundred_of_its_own_is_called_unfamiliar_and_nearly_all_others(fitted):
    model, draw = fitted
    own = draw(4000)
    assert 0.002 < (known(model, own) < 0.5).mean() < 0.025
    spread = own.std()
    aside = own[:500] + np.random.default_rng(1).normal(0, spread, (500, own.shape[1])).astype(
        np.float32
    )  # outside of the cloud
    far = own.mean(axis=0) + 4 * (own[:500] - own.mean(axis=0))  # in its directions, too far
    assert (known(model, aside) < 0.5).mean() > 0.99
    assert (known(model, far) < 0.5).mean() > 0.9


def test_it_travels_with_the_weights_and_is_small(fitted, tmp_path):
    model, draw = fitted
    model.save_pretrained(tmp_path)
    loaded = CxrForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.familiarity == model.config.familiarity
    features = draw(50)
    assert known(loaded, features) == pytest.approx(known(model, features), abs=1e-6)
    buffers = {name: buffer for name, buffer in model.named_buffers() if name.startswith("familiarity")}
    assert model.config.familiarity["components"] <= 64
    assert sum(buffer.numel() * buffer.element_size() for buffer in buffers.values()) <= 150_000


def test_one_pass_gives_it_beside_the_logits_and_a_decision_warns(fitted):
    model, _ = fitted
    calls = []
    handle = model.backbone.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        (answer,) = model.decide(model(torch.randn(1, 3, 64, 64)))
    handle.remove()
    assert len(calls) == 1
    assert 0 <= answer["familiarity"] < 0.5  # its features are not of that cloud
    assert answer["warnings"] == ["unfamiliar"]


def test_a_run_warns_of_what_is_no_radiograph(marked_run, film, tmp_path):
    metrics = Run(marked_run).read_json("metrics.json")
    assert set(metrics["familiarity"]["splits"]) == {"validation", "test"}
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300), np.uint8)).save(noise)
    chest, other = predict(Run(marked_run), [str(film), str(noise)])
    assert "unfamiliar" in other["warnings"]
    assert other["familiarity"] < chest["familiarity"]


@pytest.fixture(scope="module")
def chests(phantoms) -> list[np.ndarray]:
    return [np.asarray(Image.open(file)) for file in sorted(phantoms.rglob("*.png"))]


def test_turned_and_inverted_films_are_told(chests):
    processor = CxrImageProcessor(mean_thumbnail=mean_thumbnail(np.stack(chests[::2])))
    for chest in chests[1::2]:
        assert processor.read(chest).warnings == ()
        assert [processor.read(np.rot90(chest, turns).copy()).warnings for turns in (1, 2, 3)] == [("rotated",)] * 3
        assert "inverted" in processor.read(255 - chest).warnings
    assert CxrImageProcessor().read(255 - chests[0]).warnings == ()  # nothing is known of chests


@pytest.mark.skipif(not (SHARED / "radiographs").is_dir(), reason="needs ../shared/radiographs")
def test_real_films_are_called_turned_where_they_are_and_hardly_elsewhere():
    """With the usual chest of other films: 299 films of five collections gave .97 of half turns, .99 of quarter turns, .007 untouched."""
    place = SHARED / "radiographs" / "tasks"
    rows = pd.read_csv(place / "covid.csv", dtype=str, keep_default_na=False)
    train, others = (rows[rows["split"].isin(splits)] for splits in (["train"], ["test", "external"]))

    def read(part):
        return [np.asarray(Image.open(place / file).convert("L")) for file in part["file"]]

    films = read(others.groupby("collection").sample(40, random_state=0))
    processor = CxrImageProcessor(mean_thumbnail=mean_thumbnail(read(train.sample(300, random_state=0))))

    def proportion(code, change):
        return np.mean([code in processor.read(np.ascontiguousarray(change(film))).warnings for film in films])

    for turns in (1, 2, 3):
        assert proportion("rotated", lambda film, turns=turns: np.rot90(film, turns)) > 0.92, turns
    assert proportion("rotated", lambda film: film) <= 0.02
    assert proportion("inverted", lambda film: 255 - film) > 0.92


def test_the_usual_chest_travels_with_the_processor(chests, tmp_path):
    processor = CxrImageProcessor(mean_thumbnail=mean_thumbnail(np.stack(chests)))
    processor.save_pretrained(tmp_path)
    assert CxrImageProcessor.from_pretrained(tmp_path).mean_thumbnail == processor.mean_thumbnail
    assert len(processor.mean_thumbnail) == 256


def test_borders_do_not_change_the_outline(chests):
    framed = np.pad(chests[0], ((0, 0), (90, 90)))
    plain = thumbnail(chests[0])
    assert (thumbnail(framed) * plain).sum() > 0.9
    assert np.linalg.norm(plain) == pytest.approx(1)


@pytest.mark.parametrize(
    ("picture", "codes"),
    [
        (np.full((100, 100), 90, np.uint8), {"blank"}),
        (np.random.default_rng(0).integers(0, 255, (40, 50), np.uint8), {"tiny"}),
        (np.random.default_rng(0).integers(0, 255, (100, 250), np.uint8), {"extreme-aspect"}),
        (np.random.default_rng(0).integers(0, 255, (100, 110), np.uint8), set()),
    ],
)
def test_plain_doubts(picture, codes):
    assert set(CxrImageProcessor().read(picture).warnings) == codes


def test_colour_is_told_and_grey_in_three_channels_is_not(tmp_path, chests):
    grey = Image.fromarray(chests[0]).convert("RGB")
    grey.save(tmp_path / "grey.jpg", quality=60)
    Image.merge(
        "RGB", (grey.getchannel(0), grey.getchannel(0).point(lambda value: value // 2), grey.getchannel(0))
    ).save(tmp_path / "pink.jpg")
    assert CxrImageProcessor().read(tmp_path / "grey.jpg").warnings == ()
    assert CxrImageProcessor().read(tmp_path / "pink.jpg").warnings == ("coloured",)
