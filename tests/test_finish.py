"""What a run says of itself is what it answers once it is loaded again."""

import hashlib
import json
import shutil
from collections import Counter

import pytest

from trainer.commands.evaluate import evaluate
from trainer.data.labelled import load_for_training
from trainer.finish import finish
from trainer.inference import PixelBatches
from trainer.run import Run
from trainer.tasks import TASKS
from trainer.training.checkpoint import Checkpoints, Progress


def values(tree, path=()):
    """Each metric's value, and every other number of a report, by where it stands; intervals depend on groups' names."""
    if isinstance(tree, dict) and {"value", "low"} <= set(tree):
        yield path, tree["value"]
    elif isinstance(tree, dict | list):
        for key, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from values(part, (*path, key))
    else:
        yield path, tree


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_metrics_are_those_of_the_run_that_ships(marked_run, split, tmp_path):
    run, data = Run(marked_run), marked_run.with_name("marked-phantoms")
    files = {hashlib.sha256(file.read_bytes()).hexdigest(): str(file) for file in data.rglob("*.png")}
    rows = run.manifest()
    rows.assign(file=rows["sha256"].map(files)).drop(columns="sha256").to_csv(tmp_path / "list.csv", index=False)
    written, scored = run.read_json("metrics.json"), evaluate(run, str(tmp_path / "list.csv"), split)

    def of_split(metrics):
        points = [[point["name"], point["threshold"], point["on"].get(split)] for point in metrics["operating_points"]]
        parts = [metrics[name]["splits"][split] for name in ("calibration", "familiarity")]
        return dict(values([metrics["splits"][split], *parts, points]))

    assert of_split(scored) == pytest.approx(of_split(written), abs=1e-6)


def test_each_image_is_run_once_and_of_training_no_more_than_the_sample(run, phantoms, tmp_path, monkeypatch):
    copy = Run(shutil.copytree(run, tmp_path / "run"))
    (copy.path / "metrics.json").unlink()
    model, processor = copy.load_model()
    model.config.familiarity = model.config.operating_point = None  # as after training
    labelled, _ = load_for_training(str(phantoms), TASKS["tb"], processor, None, False, print)
    progress = Progress(**json.loads((Checkpoints(copy.checkpoints).newest() / "progress.json").read_text()))
    seen, eval_batch = Counter(), PixelBatches.eval_batch
    monkeypatch.setattr(PixelBatches, "eval_batch", lambda self, rows: seen.update(rows) or eval_batch(self, rows))
    monkeypatch.setattr("trainer.finish.FAMILIARITY_SAMPLE", 8)
    finish(copy, labelled, processor, progress, model)
    assert copy.finished
    assert set(seen.values()) == {1}
    counts = labelled.rows["split"].iloc[list(seen)].value_counts().to_dict()
    sizes = labelled.rows["split"].value_counts().to_dict()
    assert counts == {"train": 8, "validation": sizes["validation"], "test": sizes["test"]}
