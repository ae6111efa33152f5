"""`cxr data get`: each public set's own names and folders, a server that breaks off, and terms that travel."""

import base64
import hashlib
import io
import json
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from openpyxl import Workbook
from PIL import Image

from tests.conftest import QUICK
from trainer.cli import main
from trainer.data.manifest import read_manifest
from trainer.data.public.download import download
from trainer.data.public.sets import PUBLIC_SETS
from trainer.errors import WorkError

SETS = {
    "tb": {
        "TB_Chest_Radiography_Database/Normal/Normal-1.png": ("Normal", "www.kaggle.com", "", ""),
        "TB_Chest_Radiography_Database/Normal/Normal-2.PNG": ("Normal", "tb-database", "", ""),
        "TB_Chest_Radiography_Database/Tuberculosis/Tuberculosis-1.png": ("Tuberculosis", "tb-database", "", ""),
        "TB_Chest_Radiography_Database/README.md.txt": None,
    },
    "covid19-radiography": {
        "COVID-19_Radiography_Dataset/COVID/images/COVID-1.png": ("COVID", "covid19-radiography", "", "masks"),
        "COVID-19_Radiography_Dataset/COVID/masks/COVID-1.png": "mask",
        "COVID-19_Radiography_Dataset/Lung_Opacity/images/Lung_Opacity-7.png": (
            "Lung_Opacity",
            "covid19-radiography",
            "",
            "",
        ),
        "COVID-19_Radiography_Dataset/Normal/Normal-3.png": ("Normal", "covid19-radiography", "", ""),
        "COVID-19_Radiography_Dataset/Viral Pneumonia/images/Viral Pneumonia-2.png": (
            "Viral Pneumonia",
            "covid19-radiography",
            "",
            "",
        ),
    },
    "kermany": {
        "chest_xray/train/NORMAL/IM-0115-0001.jpeg": ("Normal", "kermany", "kermany:im-0115", "train"),
        "chest_xray/train/NORMAL/NORMAL2-IM-0927-0001.jpeg": ("Normal", "kermany", "kermany:normal2-im-0927", "train"),
        "chest_xray/train/PNEUMONIA/person1_bacteria_1.jpeg": ("Pneumonia", "kermany", "kermany:person1", "train"),
        "chest_xray/train/PNEUMONIA/person1_bacteria_2.jpeg": ("Pneumonia", "kermany", "kermany:person1", "train"),
        "chest_xray/test/PNEUMONIA/VIRUS-1008087-0001.jpeg": ("Pneumonia", "kermany", "kermany:virus-1008087", "test"),
        "__MACOSX/chest_xray/test/PNEUMONIA/._VIRUS-1008087-0001.jpeg": None,
    },
    "covid-pa": {
        "Data/covid/COVID-19 (1).jpg": ("Covid", "covid-pneumonia-normal-pa", "", ""),
        "Data/normal/N (2).JPG": ("Normal", "covid-pneumonia-normal-pa", "", ""),
        "Data/pneumonia/P-3.jpeg": ("Pneumonia", "covid-pneumonia-normal-pa", "", ""),
    },
    "source-b": {
        "dataset/train/covid/a.png": ("Covid", "source-b", "", "train"),
        "dataset/val/normal/b.png": ("Normal", "source-b", "", "validation"),
        "dataset/test/pneumonia/c.png": ("Pneumonia", "source-b", "", "test"),
    },
    "montgomery": {
        "MontgomerySet/CXR_png/MCUCXR_0001_0.png": ("Normal", "montgomery", "montgomery:mcucxr_0001", "leftmask"),
        "MontgomerySet/CXR_png/MCUCXR_0104_1.png": ("Tuberculosis", "montgomery", "montgomery:mcucxr_0104", ""),
        "MontgomerySet/ManualMask/leftMask/MCUCXR_0001_0.png": "mask",
        "MontgomerySet/ManualMask/rightMask/MCUCXR_0001_0.png": "mask",
        "MontgomerySet/ClinicalReadings/MCUCXR_0001_0.txt": None,
    },
    "shenzhen": {
        "ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png": ("Normal", "shenzhen", "shenzhen:chncxr_0001", "_mask"),
        "ChinaSet_AllFiles/CXR_png/CHNCXR_0327_1.png": ("Tuberculosis", "shenzhen", "shenzhen:chncxr_0327", ""),
        "mask/CHNCXR_0001_0_mask.png": "mask",
    },
    "tbx11k": {
        "TBX11K/imgs/health/h0001.png": ("Normal", "tbx11k", "tbx11k:h0001", ""),
        "TBX11K/imgs/tb/tb0003.png": ("Tuberculosis", "tbx11k", "tbx11k:tb0003", ""),
        "TBX11K/imgs/sick/s0001.png": None,
    },
}


def picture(name: str) -> bytes:
    pixels = np.random.default_rng(abs(hash(name)) % 2**32).integers(0, 255, (20, 20), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG" if name.lower().endswith("png") else "JPEG")
    return stream.getvalue()


def sheet() -> bytes:
    book = Workbook()
    book.active.append(["FILE NAME", "FORMAT", "SIZE", "URL"])
    book.active.append(
        ["Normal-1", "PNG", "512*512", "https://www.kaggle.com/c/rsna-pneumonia-detection-challenge/data"]
    )
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def archive(folder: Path, names, extra=()) -> Path:
    path = folder / "set.zip"
    with zipfile.ZipFile(path, "w") as target:
        for name in names:
            target.writestr(name, picture(name) if re.search(r"(png|jpe?g)$", name, re.IGNORECASE) else b"text")
        for name, content in extra:
            target.writestr(name, content)
    return path


@pytest.mark.parametrize("name", SETS)
def test_every_set_is_laid_out_as_its_names_say(name, tmp_path, capsys):
    extra = [("TB_Chest_Radiography_Database/Normal.metadata.xlsx", sheet())] if name == "tb" else []
    file = archive(tmp_path, SETS[name], extra)
    output = tmp_path / "out"
    assert main(["data", "get", name, "--output", str(output), "--from", str(file)]) == 0
    told = capsys.readouterr().out
    assert "licence:" in told
    assert "cite:" in told
    rows = pd.read_csv(output / "manifest.csv", dtype=str, keep_default_na=False)
    wanted = {Path(path).name: fact for path, fact in SETS[name].items() if isinstance(fact, tuple)}
    assert set(rows["file"].map(lambda file: Path(file).name)) == set(wanted)
    for row in rows.itertuples():
        label, collection, group, last = wanted[Path(row.file).name]
        assert (row.label, row.group) == (label, group)
        assert row.collection == collection.removeprefix("www.")
        split = last if last in ("train", "validation", "test") else ""
        assert row.split == split
        assert Path(row.file).parent.name == label
        masks = [mask for mask in row.mask.split(";") if mask]
        assert bool(masks) == ("mask" in last)
        assert all((output / mask).is_file() for mask in masks)
    read = read_manifest(output / "manifest.csv").rows
    assert len(read) == len(wanted)
    assert len(read_manifest(output).rows) == len(wanted)  # the folder alone reads the same: masks lie beside it
    assert json.loads((output / "SOURCE.json").read_text())["sets"][0]["citation"] in told


def test_it_goes_on_where_it_was_stopped_and_takes_folders(tmp_path):
    with zipfile.ZipFile(archive(tmp_path, SETS["montgomery"])) as packed:
        packed.extractall(tmp_path / "unpacked")
    words = ["data", "get", "montgomery", "--output", str(tmp_path / "out"), "--from", str(tmp_path / "unpacked")]
    assert main(words) == 0
    first = tmp_path / "out" / "Normal" / "MCUCXR_0001_0.png"
    second = tmp_path / "out" / "Tuberculosis" / "MCUCXR_0104_1.png"
    second.unlink()
    stamp = first.stat().st_mtime_ns
    assert main(words) == 0
    assert second.is_file()
    assert first.stat().st_mtime_ns == stamp


def test_three_sets_merge_into_three_classes(tmp_path):
    files = []
    for source in ("kermany", "covid-pa", "covid19-radiography"):
        (tmp_path / source).mkdir()
        files += ["--from", f"{source}={archive(tmp_path / source, SETS[source])}"]
    assert main(["data", "get", "three-class", "--output", str(tmp_path / "out"), *files]) == 0
    rows = pd.read_csv(tmp_path / "out" / "manifest.csv", dtype=str, keep_default_na=False)
    assert set(rows["label"]) == {"Covid", "Normal", "Pneumonia"}
    assert set(rows["split"]) == {""}
    assert not rows["file"].str.contains("Lung_Opacity").any()
    assert rows["file"].is_unique
    assert len(json.loads((tmp_path / "out" / "SOURCE.json").read_text())["sets"]) == 3


def test_licence_and_citation_go_where_the_pictures_go(tmp_path):
    """From the archive into a run's environment and its card, also by a manifest that lies elsewhere."""
    names = [
        f"TB_Chest_Radiography_Database/{label}/{label}-{number}.png"
        for label in ("Normal", "Tuberculosis")
        for number in range(24)
    ]
    assert main(["data", "get", "tb", "--output", str(tmp_path / "tb"), "--from", str(archive(tmp_path, names))]) == 0
    assert main(["data", "split", str(tmp_path / "tb"), "--output", str(tmp_path / "elsewhere" / "split.csv")]) == 0
    words = [
        "train",
        "tb",
        "--data",
        str(tmp_path / "elsewhere" / "split.csv"),
        "--output",
        str(tmp_path / "run"),
        *QUICK,
        "--set",
        "epochs=1",
    ]
    assert main(words) == 0
    (terms,) = json.loads((tmp_path / "run" / "environment.json").read_text())["data_sources"]
    assert terms["licence"] in (tmp_path / "run" / "README.md").read_text()
    assert terms["citation"] == PUBLIC_SETS["tb"].citation
    assert terms["citation"] in (tmp_path / "run" / "README.md").read_text()


def test_wrong_use_says_what_to_do(tmp_path, capsys):
    out = ["--output", str(tmp_path / "out")]
    assert main(["data", "get", "nosuch", *out]) == 2
    assert "kermany" in capsys.readouterr().err
    assert main(["data", "get", "tbx11k", *out]) == 2
    assert "--from FILE" in capsys.readouterr().err
    (tmp_path / "no.zip").write_bytes(b"no archive")
    assert main(["data", "get", "tb", *out, "--from", str(tmp_path / "no.zip")]) == 2
    assert "no ZIP archive; unpack it" in capsys.readouterr().err
    assert main(["data", "get", "three-class", *out, "--from", str(tmp_path / "no.zip")]) == 2
    assert "NAME=FILE" in capsys.readouterr().err
    other = archive(tmp_path, ["holiday/beach.png"])
    assert main(["data", "get", "shenzhen", *out, "--from", str(other)]) == 2
    assert "holds no image of shenzhen" in capsys.readouterr().err
    assert main(["data", "get"]) == 0
    assert "montgomery" in capsys.readouterr().out


def test_no_member_leaves_the_output_folder(tmp_path):
    file = archive(tmp_path, ["../../CXR_png/MCUCXR_0001_0.png", "/etc/MCUCXR_0002_1.png"])
    assert main(["data", "get", "montgomery", "--output", str(tmp_path / "a" / "out"), "--from", str(file)]) == 0
    written = sorted(path.relative_to(tmp_path / "a" / "out").as_posix() for path in (tmp_path / "a").rglob("*.png"))
    assert written == ["Normal/MCUCXR_0001_0.png", "Tuberculosis/MCUCXR_0002_1.png"]


@pytest.fixture
def server():
    """Serves `content` with ranges; the first two transfers break off half-way."""
    content = np.random.default_rng(0).bytes(300_000)
    asked: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Range"))
            if "missing" in self.path:
                self.send_error(404)
                return
            start = int(asked[-1].removeprefix("bytes=").removesuffix("-")) if asked[-1] else 0
            rest = content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(rest)))
            if "published" in self.path:
                wanted = b"another file" if "wrong" in self.path else content
                self.send_header(
                    "x-goog-hash", f"crc32c=AAAAAA==,md5={base64.b64encode(hashlib.md5(wanted).digest()).decode()}"
                )
            self.end_headers()
            self.wfile.write(rest[: len(rest) // 2] if len(asked) <= 2 else rest)

        def log_message(self, *arguments):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", content, asked
    httpd.shutdown()


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    address, content, asked = server
    file = download(f"{address}/set.zip", tmp_path, wait=0.0)
    assert file.read_bytes() == content
    assert asked == [None, "bytes=150000-", "bytes=225000-"]
    download(f"{address}/set.zip", tmp_path, wait=0.0)
    assert len(asked) == 3  # it is there
    assert download(f"{address}/published.zip", tmp_path).read_bytes() == content
    with pytest.raises(WorkError, match="damaged"):
        download(f"{address}/published-wrong.zip", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"set.zip", "published.zip"}
    with pytest.raises(WorkError, match=r"404.*--from FILE"):
        download(f"{address}/missing.zip", tmp_path, wait=0.0)
