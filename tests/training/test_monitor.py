"""What stops and picks, what is said where nothing is learned, and BatchNorm statistics that move."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from sklearn.metrics import roc_auc_score

from tests.conftest import QUICK, TINY
from tests.training.conftest import PLAIN, changed, small
from trainer.cli import main
from trainer.evaluation import figures
from trainer.recipes import RECIPES, get_recipe, upgrade
from trainer.run import Run
from trainer.training.build import build_model, load_backbone
from trainer.training.checkpoint import Checkpoints, Progress
from trainer.training.loop import fit, make_optimizer, train_epoch
from trainer.training.monitor import chance_loss, chance_warning, validation_metrics


def row(loss: float, auroc: float) -> dict[str, float]:
    return {"validation_loss": loss, "validation_auroc": auroc}


def test_the_monitored_metric_picks_and_of_equal_ones_the_loss():
    epochs = [row(0.5, 0.8), row(0.4, 0.7), row(0.6, 0.9), row(0.55, 0.9), row(0.3, 0.85)]
    for monitor, picked in (("auroc", [1, 3, 4]), ("loss", [1, 2, 5])):
        progress = Progress()
        assert [epoch["validation_loss"] for epoch in epochs if progress.record(epoch, monitor)] == [
            epochs[number - 1]["validation_loss"] for number in picked
        ]
        assert progress.best_epoch == picked[-1]
    assert all(recipe.monitor == "loss" and recipe.batch_norm == "frozen" for recipe in RECIPES.values())


@pytest.mark.parametrize("labels", [2, 3])
def test_metrics_of_the_validation_images(labels):
    generator = torch.Generator().manual_seed(labels)
    logits, truth = torch.randn(60, labels, generator=generator), np.arange(60) % labels
    scores = logits.double().softmax(1).numpy()
    expected = roc_auc_score(truth, scores[:, 1] if labels == 2 else scores, multi_class="ovr")
    assert validation_metrics(logits, truth, "auroc")["validation_auroc"] == pytest.approx(expected)
    recalls = [(logits.argmax(1).numpy()[truth == label] == label).mean() for label in range(labels)]
    found = validation_metrics(logits, truth, "balanced_accuracy")
    assert found["validation_balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert set(validation_metrics(logits, truth, "loss")) == {"validation_loss", "validation_accuracy"}
    broken = torch.full_like(logits, float("nan"))
    assert not np.isfinite(validation_metrics(broken, truth, "auroc")["validation_loss"])  # the loop says the cure


def test_a_training_follows_its_monitor_through_resume_to_its_curves(feed, tmp_path, capsys):
    recipe = replace(PLAIN, epochs=1, monitor="auroc")
    fit(Accelerator(cpu=True), small(recipe), replace(feed, recipe=recipe), tmp_path)
    recipe = replace(recipe, epochs=2)
    progress = fit(Accelerator(cpu=True), small(recipe), replace(feed, recipe=recipe), tmp_path)
    said = capsys.readouterr().out
    assert said.count("  auroc ") == 2
    assert "going on after epoch 1" in said
    values = [(epoch["validation_auroc"], -epoch["validation_loss"]) for epoch in progress.history]
    assert progress.best_epoch == 1 + values.index(max(values))
    assert Checkpoints(tmp_path).load_best(progress)
    picture = figures.curves(progress.history, progress.best_epoch)
    assert [axes.get_title() for axes in picture.axes] == ["Cross-entropy", "Accuracy", "AUROC"]
    kept = f"kept: epoch {progress.best_epoch}"
    assert all(kept in [text.get_text() for text in axes.get_legend().get_texts()] for axes in picture.axes)


def test_chance_is_the_entropy_of_the_weighted_classes():
    truth = np.repeat([0, 1], [30, 10])
    assert chance_loss(truth, None, 2) == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
    assert chance_loss(truth, [40 / 60, 40 / 20], 2) == pytest.approx(np.log(2))
    assert chance_loss(truth, [2.0, 2.0], 2) == pytest.approx(2 * chance_loss(truth, None, 2))
    model = small(class_weights={"Normal": 0.4, "Tuberculosis": 1.9})
    model.config.class_weights = [0.4, 1.9]
    share = 30 * 0.4 / (30 * 0.4 + 10 * 1.9)
    logits = torch.tensor([[0.0, float(np.log((1 - share) / share))]]).expand(40, 2)
    assert model.sample_losses(logits, torch.from_numpy(truth)).mean().item() == pytest.approx(
        chance_loss(truth, [0.4, 1.9], 2), rel=1e-6
    )


def test_a_loss_that_stays_at_chance_is_said_once_with_what_helps():
    chance = float(np.log(2))
    losses = [0.7, 0.4, 0.69, 0.70, 0.71, 0.3, 0.7, 0.7]
    said = [
        chance_warning(PLAIN, [{"train_loss": loss} for loss in losses[: end + 1]], chance)
        for end in range(len(losses))
    ]
    assert [index for index, warning in enumerate(said) if warning] == [3]
    assert "--set learning_rate=0.00003" in said[3] or "--set learning_rate=3e-05" in said[3]
    assert "--set batch_norm=moving" in said[3]
    stuck = [{"train_loss": 0.7}] * 2
    for recipe in (replace(PLAIN, batch_norm="moving"), replace(PLAIN, unfreeze="none")):
        warning = chance_warning(recipe, stuck, chance)
        assert "learning_rate=" in warning
        assert "batch_norm" not in warning
    assert chance_warning(PLAIN, [{"train_loss": 0.6}] * 2, chance) is None


def test_a_training_that_learns_nothing_says_so_once_also_where_it_is_stopped(feed, tmp_path, capsys):
    for epochs in (3, 5):
        recipe = replace(PLAIN, epochs=epochs, learning_rate=1e-12, patience=0)
        fit(Accelerator(cpu=True), small(recipe), replace(feed, recipe=recipe), tmp_path)
    assert capsys.readouterr().out.count("stays at chance") == 1


@pytest.mark.parametrize(
    ("unfreeze", "moves"),
    [("all", "backbone."), (["conv_1x1"], "backbone.conv_1x1."), ("none", None)],
    ids=["all", "last", "none"],
)
def test_moving_statistics_are_those_of_unfrozen_layers_alone(feed, unfreeze, moves, tmp_path):
    """With a feature cache, where one can be: what trains shares its statistics with the whole model."""
    recipe = replace(PLAIN, unfreeze=unfreeze, batch_norm="moving")
    model = small(recipe)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    progress = fit(Accelerator(cpu=True), model, replace(feed, recipe=recipe), tmp_path, 10**9)
    moved = {name for name in changed(before, model) if "running" in name}
    assert moved == {name for name in before if moves and name.startswith(moves) and "running" in name}
    kept = Checkpoints(tmp_path).load_best(progress)
    assert any(torch.equal(kept[name], before[name]) for name in moved) is False


def test_pretrained_statistics_move_where_the_recipe_says_so(feed):
    backbone = load_backbone(PLAIN, str(TINY), False)
    backbone.pretrained = True
    for batch_norm, moves in (("frozen", False), ("moving", True)):
        model = build_model(replace(PLAIN, batch_norm=batch_norm), ("Normal", "Tuberculosis"), backbone)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        accelerator = Accelerator(cpu=True)
        prepared, optimizer = accelerator.prepare(model, make_optimizer(model, PLAIN))
        train_epoch(accelerator, prepared, optimizer, replace(feed, recipe=replace(PLAIN, gradient_accumulation=2)), 0)
        assert any("running" in name for name in changed(before, model)) == moves


def test_moving_statistics_go_on_from_a_checkpoint(feed, tmp_path):
    recipe = replace(PLAIN, unfreeze=["conv_1x1"], batch_norm="moving", input_dropout=0.0)
    states = []
    for name, parts in (("whole", (2,)), ("parts", (1, 2))):
        for epochs in parts:
            model = small(recipe)
            part = replace(recipe, epochs=epochs, schedule="constant")
            fit(Accelerator(cpu=True), model, replace(feed, recipe=part), tmp_path / name)
        states.append(model.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_the_recipe_of_an_older_run_is_that_of_today():
    """`batch_norm` was whether the head has BatchNorm, and `views` in how many ways an image is augmented."""
    later = {"head_batch_norm", "batch_norm", "monitor", "augmented_views", "views", "level", "strides", "head"}
    for name in ("tb-finetuned", "tb-vgg16", "three-class-mobilenetv3small"):
        today = asdict(get_recipe(name))
        old = {key: value for key, value in today.items() if key not in later | {"whitening", "ridge"}}
        before = {**old, "batch_norm": today["head_batch_norm"], "views": today["augmented_views"]}
        assert upgrade(before) == today
        assert upgrade(today) == today


def test_an_older_run_that_was_stopped_goes_on(phantoms, tmp_path, monkeypatch):
    words = ["train", "tb-finetuned", "--data", str(phantoms), "--output", str(tmp_path / "run"), *QUICK]
    save = Checkpoints.save

    def stop(*words) -> None:
        save(*words)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", stop)
    assert main(words) == 130
    monkeypatch.setattr(Checkpoints, "save", save)
    run = Run(tmp_path / "run")
    recipe = run.read_json("recipe.json")
    (folder,) = run.checkpoints.glob("epoch-*")
    state = Run(folder).read_json("progress.json")
    Run(folder).write_json("progress.json", {**state, "best_loss": state["history"][0]["validation_loss"]})
    del recipe["monitor"], recipe["head_batch_norm"]
    run.write_json("recipe.json", {**recipe, "batch_norm": False})
    assert main([*words, "--resume"]) == 0
    assert len(run.read_table("history.csv")) == 2
