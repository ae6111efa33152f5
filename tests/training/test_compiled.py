"""--compile changes the time, not the training."""

import json
import shutil

import pandas as pd
import pytest

from tests.conftest import QUICK
from trainer.cli import main


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("unfreeze", ["all", "none"])
def test_a_compiled_training_reaches_the_same_losses(unfreeze, phantoms, tmp_path):
    words = [
        "train",
        "tb",
        "--data",
        str(phantoms),
        *QUICK,
        "--set",
        "input_dropout=0",
        "--set",
        f"unfreeze={unfreeze}",
    ]
    assert main([*words, "--output", str(tmp_path / "plain")]) == 0
    assert main([*words, "--output", str(tmp_path / "compiled"), "--compile"]) == 0
    plain, compiled = (pd.read_csv(tmp_path / name / "history.csv") for name in ("plain", "compiled"))
    for column in ("train_loss", "validation_loss"):
        assert compiled[column].tolist() == pytest.approx(plain[column].tolist(), rel=2e-2)
    assert json.loads((tmp_path / "compiled" / "environment.json").read_text())["compiled"]
