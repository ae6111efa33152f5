import shutil

import numpy as np
import pytest
import torch

from trainer.cxr_model import CxrImageProcessor
from trainer.data.manifest import read_manifest
from trainer.data.pixels import decode
from trainer.errors import WorkError

SMALL = CxrImageProcessor(size={"height": 40, "width": 56})


def test_training_stores_exactly_what_the_processor_gives(phantoms):
    rows, images, skipped = decode(read_manifest(phantoms).rows, SMALL)
    assert len(images) == 48
    assert skipped.empty
    chosen = np.array([40, 3, 3, 0])
    batch = images.batch(chosen)
    assert tuple(batch.shape) == (4, 40, 56)
    for grey, row in zip(batch.numpy(), chosen, strict=True):
        assert (grey == SMALL.resize(SMALL.read(rows["file"][row]).pixels)).all()


def test_the_second_time_nothing_is_decoded(phantoms, monkeypatch):
    rows = read_manifest(phantoms).rows
    _, first, _ = decode(rows, SMALL)
    monkeypatch.setattr(CxrImageProcessor, "resize", lambda *_: pytest.fail("decoded again"))
    _, second, _ = decode(rows, SMALL)
    assert (first.batch(np.arange(5)) == second.batch(np.arange(5))).all()


def test_a_changed_file_is_decoded_anew(phantoms, tmp_path):
    shutil.copytree(phantoms, tmp_path / "data")

    def pictures():
        rows, images, _ = decode(read_manifest(tmp_path / "data").rows, SMALL)
        return dict(zip(rows["file"], images.batch(np.arange(len(rows))), strict=True))

    before = pictures()
    normal = sorted((tmp_path / "data" / "Normal").iterdir())
    shutil.copyfile(normal[1], normal[0])
    after = pictures()
    changed, copied = str(normal[0]), str(normal[1])
    assert not torch.equal(before[changed], after[changed])
    assert torch.equal(after[changed], after[copied])


def test_a_corrupt_file_is_set_aside(phantoms, tmp_path):
    shutil.copytree(phantoms, tmp_path / "data")
    bad = tmp_path / "data" / "Normal" / "phantom-00003.png"
    bad.write_bytes(bad.read_bytes()[:1000])
    rows, images, skipped = decode(read_manifest(tmp_path / "data").rows, SMALL)
    assert len(rows) == len(images) == 47
    assert skipped["file"].tolist() == [str(bad)]
    assert str(bad) not in set(rows["file"])
    for index, row in enumerate(rows["file"][:5]):
        assert (images.batch(np.array([index]))[0].numpy() == SMALL.resize(SMALL.read(row).pixels)).all()


def test_a_cache_that_cannot_be_written_is_named_with_the_cure(phantoms, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "/dev/null/home")
    with pytest.raises(WorkError, match=r"/dev/null/home/cxr-hub-pixels cannot be written .*HF_HOME"):
        decode(read_manifest(phantoms).rows, CxrImageProcessor(size=64))
