"""Names of files, classes, licences and data that are markup, formulas or control characters: only ever text."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import yaml
from markdown_it import MarkdownIt

from hub_cards.card import render_card
from tests.conftest import QUICK
from trainer.cli import main

NAMES = (
    "control\x1b[31m\x07.png",
    "two\nlines.png",
    "right-to-left\u202egnp.exe.png",
    "x" * 251 + ".png",
    "=HYPERLINK(1).png",
    "<img src=x onerror=alert(1)>.png",
    "a`b*_[x](javascript:1)|{{ 7*7 }}.png",
    "-rf.png",
    "--json.png",
    " space and 'quote\".png",
    "%s%n$(touch x).png",
    "no utf-8 \udcff\udcfe.png",
)
LABELS = ("<script>alert(1)<script> ~~x~~", "TB: [x](javascript:1) | `y` ![i](x) *z* {{ 7*7 }} $$\\\"'#")
OBEYED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class Elements(HTMLParser):
    """Names of the elements of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names, self.text = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        assert not [name for name, value in attributes if name.startswith("on") or "javascript:" in (value or "")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def named(phantoms, tmp_path):
    """A folder of two classes whose names and files' names are these."""
    for label, known in zip(LABELS, ("Normal", "Tuberculosis"), strict=True):
        folder = tmp_path / "films" / label
        folder.mkdir(parents=True)
        for number, film in enumerate(sorted((phantoms / known).glob("*.png"))):
            shutil.copy(film, folder / (NAMES[number] if number < len(NAMES) else film.name))
    return tmp_path / "films"


def said(capsys) -> str:
    out, err = capsys.readouterr()
    assert not OBEYED.findall(out)
    assert not {"\x07", "\u202e"} & set(OBEYED.findall(err))
    return out


def test_predict_prints_one_line_a_file_and_nothing_that_a_terminal_obeys(run, named, capsys):
    files = sorted(map(str, (named / LABELS[1]).iterdir()))
    assert main(["predict", str(run), "--", *files]) == 0
    assert len(said(capsys).splitlines()) == len(files)
    assert main(["predict", str(run), "--json", "--", *files]) == 0
    assert [json.loads(line)["file"] for line in said(capsys).splitlines()] == files
    assert main(["predict", str(run), str(named / "no\x1b[2Jsuch.png")]) == 1
    assert said(capsys).startswith("error: ")


def test_check_and_its_page(named, tmp_path, capsys):
    assert main(["data", "check", str(named), "--output", str(tmp_path / "report")]) == 0
    assert "not UTF-8: rename them" in said(capsys)
    page = Elements((tmp_path / "report" / "report.html").read_text())
    assert not page.names & {"script", "a", "iframe"}
    assert all(label in page.text for label in LABELS)


def test_a_card_shows_them_as_text(named, tmp_path, capsys):
    words = ["--output", str(tmp_path / "run"), "--positive", LABELS[1], *QUICK]
    assert main(["train", "tb-finetuned", "--data", str(named), *words]) == 0
    assert all(label in said(capsys) for label in LABELS[1:])
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    source = {
        "title": "[a](javascript:1)",
        "page": "javascript:alert(1)",
        "licence": "x\n\n# y",
        "citation": "<b>z\x1b",
    }
    (tmp_path / "run" / "environment.json").write_text(json.dumps({**environment, "data_sources": [source]}))
    _, front, body = render_card(tmp_path / "run").split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    page = Elements(MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(body))
    assert not OBEYED.search(page.text)
    assert not page.names & {"script", "a", "b", "s", "em"}
    assert all(label in page.text for label in LABELS)
    assert "[a](javascript:1), licence: x # y. <b>z" in page.text
