import numpy as np
import pytest
from PIL import Image

from trainer.cli import main
from trainer.data.phantom import FINDINGS, draw_phantom, write_phantoms
from trainer.errors import UsageError
from trainer.tasks import TASKS


@pytest.mark.parametrize("label", FINDINGS)
def test_the_same_seed_draws_the_same_picture(label):
    first, second, other = (draw_phantom(label, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert (first.pixels == second.pixels).all()
    assert not (first.pixels == other.pixels).all()


@pytest.mark.parametrize("label", FINDINGS)
def test_a_finding_has_a_mask_where_it_is_and_normal_has_none(label):
    shares = [draw_phantom(label, np.random.default_rng(seed)).mask.mean() for seed in range(8)]
    assert all(share == 0 for share in shares) if label == "Normal" else all(0.002 < share < 0.5 for share in shares)


def test_findings_lie_where_they_belong():
    def center(label):
        masks = [draw_phantom(label, np.random.default_rng(seed)).mask for seed in range(12)]
        places = np.concatenate([np.argwhere(mask) for mask in masks]) / 320
        return places[:, 0].mean(), np.abs(places[:, 1] - 0.5).mean()

    tb, covid, viral = center("Tuberculosis"), center("COVID"), center("Viral Pneumonia")
    assert tb[0] < 0.42 < covid[0]  # apical above, COVID below
    assert covid[1] > viral[1]  # peripheral


def test_every_label_of_every_task_can_be_drawn():
    assert {label for task in TASKS.values() for label in task.labels} == set(FINDINGS)


def test_border_marker_and_exposure_do_not_give_the_label_away():
    """A rank test on three global statistics: none may tell the classes apart well."""
    from sklearn.metrics import roc_auc_score

    pictures = [
        (label, draw_phantom(label, np.random.default_rng([seed, label == "Normal"])).pixels)
        for label in ("Normal", "Tuberculosis")
        for seed in range(60)
    ]
    truth = [label == "Normal" for label, _ in pictures]
    for statistic in (np.mean, np.std, lambda pixels: (pixels < 4).mean()):
        area = roc_auc_score(truth, [statistic(pixels) for _, pixels in pictures])
        assert 0.33 < area < 0.67


def test_files_masks_and_errors(tmp_path, capsys):
    counts = write_phantoms(tmp_path / "p", "three-class", 8, seed=1)
    assert counts == {"Covid": 3, "Normal": 3, "Pneumonia": 2}
    films = sorted(str(file.relative_to(tmp_path / "p")) for file in (tmp_path / "p").rglob("*.png"))
    masks = sorted(str(file.relative_to(tmp_path / "p_masks")) for file in (tmp_path / "p_masks").rglob("*.png"))
    assert len(films) == 8
    assert masks == [film for film in films if not film.startswith("Normal")]
    assert Image.open(tmp_path / "p" / films[0]).size == (320, 320)
    with pytest.raises(UsageError, match="holds something already"):
        write_phantoms(tmp_path / "p", "tb", 4, seed=0)
    with pytest.raises(UsageError, match="no task 'flu'"):
        write_phantoms(tmp_path / "q", "flu", 4, seed=0)
    with pytest.raises(SystemExit, match="2"):
        main(["data", "phantom", "--output", str(tmp_path / "q"), "--task", "flu"])
    assert "three-class" in capsys.readouterr().err
    assert not (tmp_path / "q").exists()
