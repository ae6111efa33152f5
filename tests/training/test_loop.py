"""The loop: order, accumulation, freezing, schedule, stopping."""

import threading
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from tests.training.conftest import PLAIN, changed, small
from trainer import inference
from trainer.data.labelled import LabelledImages
from trainer.errors import UsageError, WorkError
from trainer.inference import prefetch
from trainer.tasks import Task
from trainer.training import loop
from trainer.training.augment import augment, draw_parameters
from trainer.training.checkpoint import Progress
from trainer.training.feed import class_weights
from trainer.training.loop import epoch_steps, fit, make_optimizer, set_learning_rate, train_epoch


@given(st.integers(2, 200), st.integers(1, 16), st.integers(1, 4), st.integers(0, 9), st.integers(0, 9))
def test_every_sample_once_in_an_order_of_seed_and_epoch(count, batch, parts, seed, epoch):
    samples = np.arange(count) * 3
    steps = epoch_steps(samples, batch, parts, seed, epoch)
    assert sorted(np.concatenate(steps)) == samples.tolist()
    again = epoch_steps(samples, batch, parts, seed, epoch)
    assert all((one == two).all() for one, two in zip(steps, again, strict=True))
    if len(steps) > 1:
        assert min(map(len, steps)) >= min(2, batch) * parts


def test_augmentation_is_a_function_of_seed_epoch_and_sample():
    five, six = replace(PLAIN, seed=5), replace(PLAIN, seed=6)
    together, alone = draw_parameters(five, 2, np.array([7, 8, 9])), draw_parameters(five, 2, np.array([9]))
    assert torch.equal(together[2:], alone)
    assert together.abs().max() <= 1
    assert not torch.equal(alone, draw_parameters(five, 3, np.array([9])))
    assert not torch.equal(alone, draw_parameters(six, 2, np.array([9])))


def test_augmentation_moves_by_what_the_recipe_says():
    image = torch.zeros(1, 64, 64)
    image[0, 20:28, 40:48] = 200.0
    still = replace(PLAIN, augment="random", rotate=0.0, translate=0.0, zoom=0.0, intensity=0.0)
    assert torch.equal(augment(image, torch.ones(1, 9), still), image)
    shifted = augment(image, torch.tensor([[0, 0, 0, -1.0, 0, 0, 0, 0, 0]]), replace(still, translate=0.125))
    assert torch.allclose(shifted[0, :, 8:], image[0, :, :-8], atol=1e-2)
    mirrored = augment(image, torch.tensor([[0, 0, -1.0, 0, 0, 0, 0, 0, 0]]), replace(still, flip=True))
    assert torch.allclose(mirrored, image.flip(2), atol=1e-2)
    turned = augment(image, torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0, 0]]), replace(still, rotate=90.0))
    assert min((turned - image.rot90(turns, (1, 2))).abs().max() for turns in (1, 3)) < 1
    brighter = augment(image, torch.tensor([[0, 0, 0, 0, 0, 0, 0, 1.0, 0]]), replace(still, intensity=0.2))
    assert brighter.min() > 20
    assert brighter.max() <= 255


def test_accumulated_passes_give_the_step_of_the_whole_batch(feed):
    weights = []
    for batch, parts in ((8, 1), (4, 2), (2, 4)):
        accelerator = Accelerator(cpu=True)
        # statistics of a batch depend on its size, so they are frozen here
        model = small()
        model.update_statistics = False
        recipe = replace(
            PLAIN,
            batch_size=batch,
            gradient_accumulation=parts,
            optimizer="adamw",
            learning_rate=1e-2,
            gradient_clip=0.5,
        )
        prepared, optimizer = accelerator.prepare(model, make_optimizer(model, recipe))
        train_epoch(accelerator, prepared, optimizer, replace(feed, recipe=recipe), epoch=0)
        weights.append(model.classifier.weight.detach().clone())
    assert torch.allclose(weights[0], weights[1], atol=1e-5)
    assert torch.allclose(weights[0], weights[2], atol=1e-5)


@pytest.mark.parametrize(
    ("unfreeze", "trained"),
    [
        ("none", set()),
        (
            ["conv_1x1"],
            {
                "backbone.conv_1x1.convolution.weight",
                "backbone.conv_1x1.normalization.weight",
                "backbone.conv_1x1.normalization.bias",
            },
        ),
    ],
)
def test_exactly_what_is_unfrozen_changes(feed, unfreeze, trained):
    accelerator = Accelerator(cpu=True)
    model = small(unfreeze=unfreeze, hidden_sizes=[8], dropout=0.25)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prepared, optimizer = accelerator.prepare(model, make_optimizer(model, PLAIN))
    train_epoch(accelerator, prepared, optimizer, feed, epoch=0)
    head = {name for name in before if not name.startswith("backbone.")}
    assert changed(before, model) == trained | head


def test_full_fine_tuning_keeps_the_statistics_of_pretrained_normalisation(feed):
    accelerator = Accelerator(cpu=True)
    model = small()
    model.update_statistics = False  # as build_model leaves a pre-trained one
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prepared, optimizer = accelerator.prepare(model, make_optimizer(model, PLAIN))
    train_epoch(accelerator, prepared, optimizer, feed, epoch=0)
    moved = changed(before, model)
    assert moved
    assert not any("running" in name for name in moved)


def test_unknown_modules_are_named():
    with pytest.raises(UsageError, match=r"no module 'layer4'.*conv_stem"):
        small(unfreeze=["layer4"])


def test_schedules():
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)])

    def rate(epoch, **settings):
        set_learning_rate(optimizer, replace(PLAIN, epochs=10, learning_rate=1.0, **settings), epoch)
        return optimizer.param_groups[0]["lr"]

    assert [rate(epoch, schedule="constant") for epoch in (0, 5, 9)] == [1, 1, 1]
    assert [rate(epoch, schedule="cosine") for epoch in (0, 5, 10)] == pytest.approx([1, 0.5, 0])
    assert [rate(epoch, schedule="exponential") for epoch in (0, 20)] == pytest.approx([1, 0.1])
    assert [rate(epoch, schedule="constant", warmup_epochs=2.0) for epoch in (0, 1, 2)] == pytest.approx(
        [0, 0.5, 1], abs=1e-2
    )


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_made_ahead_comes_in_order_and_its_errors_arrive(device):
    """Any device but a CPU has the next batch made beside it, by a thread."""
    assert list(prefetch(lambda job: job * job, range(5), torch.device(device))) == [0, 1, 4, 9, 16]
    assert list(prefetch(abs, [], torch.device(device))) == []
    made = prefetch(lambda job: 1 // job, [1, 0, 1], torch.device(device))
    assert next(made) == 1
    with pytest.raises(ZeroDivisionError):
        next(made)


def test_what_is_made_ahead_is_made_while_the_last_is_used():
    begun = threading.Event()

    def make(job):
        if job == 1:
            begun.set()
        return job

    made = prefetch(make, [0, 1], torch.device("meta"))
    assert next(made) == 0
    assert begun.wait(timeout=5)  # nobody has asked for it yet
    assert next(made) == 1


def test_balanced_weights_count_each_class_alike():
    truth = np.repeat([0, 1, 2], [30, 6, 14])
    rows = pd.DataFrame({"split": ["train"] * 50, "label": np.array(["a", "b", "c"])[truth]})
    labelled = LabelledImages(Task("own", ("a", "b", "c")), rows, images=None)
    weights = class_weights(replace(PLAIN, class_weights="balanced"), labelled)
    assert [weight * count for weight, count in zip(weights, (30, 6, 14), strict=True)] == pytest.approx([50 / 3] * 3)
    assert class_weights(replace(PLAIN, class_weights={"a": 1, "b": 2, "c": 0.5}), labelled) == [1, 2, 0.5]
    with pytest.raises(UsageError, match="one weight for each of a, b, c"):
        class_weights(replace(PLAIN, class_weights={"a": 1.0}), labelled)


def test_early_stopping_and_the_best_epoch():
    progress = Progress()
    losses = [0.5, 0.4, 0.45, 0.41, 0.42]
    assert [progress.record({"validation_loss": loss}, "loss") for loss in losses] == [True, True, False, False, False]
    assert progress.best_epoch == 2
    assert progress.stale(3)
    assert not progress.stale(4)
    assert not progress.stale(0)


class Bar(tqdm):
    """Remembers the bars that are shown."""

    shown: ClassVar[list["Bar"]] = []

    def __init__(self, *values, disable=False, **settings):
        super().__init__(*values, disable=disable, **settings)
        self.shown += [] if disable else [self]


def test_training_stops_early_and_keeps_the_best(feed, tmp_path, monkeypatch, capsys):
    for module in (loop, inference):
        monkeypatch.setattr(module, "tqdm", Bar)
    accelerator = Accelerator(cpu=True)
    recipe = replace(PLAIN, epochs=30, patience=2, learning_rate=3e-2)
    model = small(recipe)
    progress = fit(accelerator, model, replace(feed, recipe=recipe), tmp_path)
    assert progress.epoch < 30
    assert progress.epoch - progress.best_epoch == 2
    (bar,) = Bar.shown  # one for all epochs
    assert bar.total == 30
    assert bar.n == pytest.approx(progress.epoch)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith("warning:")] == [
        "epoch",
        "expected:",
        *["epoch"] * (progress.epoch - 1),
    ]
    assert lines[1].endswith("more for at most 29 epochs")
    assert sorted(item.name for item in tmp_path.iterdir()) == [
        f"epoch-{progress.epoch:04d}",
        f"weights-{progress.best_epoch:04d}.safetensors",
        f"weights-{progress.epoch:04d}.safetensors",
    ]


def test_a_loss_that_is_not_finite_stops_with_the_cure(feed, tmp_path):
    model = small()
    torch.nn.init.constant_(model.classifier.bias, float("nan"))
    with pytest.raises(WorkError, match="--set learning_rate"):
        fit(Accelerator(cpu=True), model, feed, tmp_path)
