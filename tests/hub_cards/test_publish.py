"""What the Hub would refuse is said before anything is made there, and what it refuses in one sentence with the cure."""

import json
import shutil
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub.errors import OfflineModeIsEnabled

from hub_cards.publish import publish_files
from hub_cards.space import find_model, space_files
from tests.conftest import QUICK
from tests.hub.server import OTHER, TOKEN, Line, start
from trainer.cli import main
from trainer.errors import UsageError, WorkError, hub_errors
from trainer.recipes import get_recipe
from trainer.run import load_run
from trainer.training.build import load_backbone

CARD = b"---\nlicense: mit\n---\n"
MODEL = {"README.md": CARD, "modeling_cxr.py": b"", "model.safetensors": b"weights", "config.json": b"{}"}
TO_TB = ("--repo-id", "org/tb")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that this process speaks to, as the owner of TOKEN; `hub.point(token)` changes the account or its address."""
    served, server = start(tmp_path / "hub")

    def point(token=TOKEN):
        for name, value in {
            "ENDPOINT": served.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{served.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN", raising=False)

    served.point = point
    point()
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None, time=lambda: 0))
    yield served
    server.should_exit = True


@pytest.fixture
def finished(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoints"))
    return str(folder)


def refused(capsys, *words, code=2) -> str:
    """What a command says that ends with this exit code."""
    assert main([*map(str, words)]) == code
    said = capsys.readouterr().err
    assert TOKEN not in said
    return said


def test_a_licence_the_hub_does_not_know_is_told_before_anything_is_made(hub, finished, phantoms, tmp_path, capsys):
    for words in (
        ("push", finished, *TO_TB),
        ("data", "push", phantoms, *TO_TB),
        ("push", finished, *TO_TB, "--dry-run"),
    ):
        said = refused(capsys, *words, "--licence", "foo")
        assert "--licence foo" in said
        assert "cc-by-4.0" in said  # the ids that it knows
    words = (
        "train",
        "tb-finetuned",
        "--data",
        phantoms,
        "--output",
        tmp_path / "new",
        *QUICK,
        "--push-to-hub",
        "org/tb",
    )
    assert "--licence foo" in refused(capsys, *words, "--licence", "foo")
    assert not (tmp_path / "new").exists()
    assert hub.commits == {}
    assert "licence" not in load_run(finished).read_json("recipe.json")


def test_a_licence_is_published_as_the_hub_writes_it(hub, finished):
    assert main(["push", finished, *TO_TB, "--licence", "CC BY-NC 4.0"]) == 0
    assert load_run(finished).read_json("recipe.json")["licence"] == "cc-by-nc-4.0"
    assert b"license: cc-by-nc-4.0" in hub.files("models", "org/tb")["README.md"]


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_private_never_publishes_in_public(kind, hub, finished, phantoms, capsys):
    publish_files("org/tb", "model", MODEL, False, "a model")
    words = {
        "model": ("push", finished, *TO_TB, "--licence", "mit"),
        "dataset": ("data", "push", phantoms, *TO_TB, "--licence", "mit"),
        "space": ("push-space", *TO_TB, "--tb", "org/tb"),
    }[kind]
    publish_files("org/tb", kind, MODEL, False, "in public")
    before = hub.files(f"{kind}s", "org/tb")
    said = refused(capsys, *words, "--private")
    assert "org/tb: it is public" in said
    assert f"hf repos settings org/tb --type {kind} --private" in said
    assert hub.files(f"{kind}s", "org/tb") == before
    hub.private.add(f"{kind}s/org/tb")  # the cure
    assert main([*map(str, words), "--private"]) == 0
    assert hub.files(f"{kind}s", "org/tb") != before


def test_no_visibility_is_sent_unless_private_is_asked_for(hub):
    for kind in ("model", "dataset", "space"):
        publish_files("org/as-set", kind, {"README.md": CARD}, False, "as its owner set")
        publish_files("org/mine", kind, {"README.md": CARD}, True, "mine")
    sent = [(asked["name"], asked.get("visibility"), asked.get("private")) for asked in hub.created]
    assert sent == [("as-set", None, None), ("mine", "private", None)] * 3


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (("--repo-id", "tb"), "ORG/NAME", 2),
        (("--repo-id", "org/t b"), "ORG/NAME", 2),
        ((*TO_TB, "--revision", "a branch"), "--revision a branch", 2),
    ],
)
def test_names_the_hub_cannot_have_are_told_first(words, said, code, hub, finished, capsys):
    assert said in refused(capsys, "push", finished, *words, "--licence", "mit", code=code)
    assert hub.commits == {}


@pytest.mark.parametrize(("token", "cure"), [(None, "HF_TOKEN"), ("hf_wrong", "HF_TOKEN"), (OTHER, "HF_TOKEN")])
def test_an_account_that_may_not_write_is_told(token, cure, hub, finished, capsys):
    hub.point(token)
    said = refused(capsys, "push", finished, *TO_TB, "--licence", "mit", code=1)
    assert cure in said
    assert token is None or token not in said
    assert hub.commits == {}


@pytest.mark.parametrize(
    ("token", "owner", "said"),
    [
        ({"role": "read"}, "org", "may only read"),
        (
            {"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": ["repo.content.read"]}]}},
            "org",
            "may only",
        ),
        ({"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": ["repo.write"]}]}}, "org", None),
        ({}, "another", "tester is no member of another"),
    ],
    ids=["read", "fine-grained", "fine-grained writer", "another organisation"],
)
def test_a_token_that_may_not_write_is_told_before_hours_of_training(
    token, owner, said, hub, phantoms, tmp_path, capsys
):
    hub.tokens[TOKEN] = token
    train = ("train", "tb-finetuned", "--data", phantoms, "--output", tmp_path / "new", *QUICK)
    for words in (
        (*train, "--licence", "mit", "--push-to-hub", f"{owner}/tb"),
        ("push-space", "--repo-id", f"{owner}/app", "--tb", "org/tb"),
        ("data", "push", tmp_path, "--licence", "mit", "--repo-id", f"{owner}/films"),
    ):
        if said:
            message = refused(capsys, *words, code=1)
            assert said in message
            assert "HF_TOKEN" in message
        elif words[0] != "train":
            main([*map(str, words)])
            assert "may only read" not in capsys.readouterr().err
    assert hub.commits == {}


def test_what_would_be_refused_again_is_not_to_be_run_again(hub, finished, capsys):
    hub.fail["/commit/"] = [413]
    assert "413: asked for by a test): mend that" in refused(
        capsys, "push", finished, *TO_TB, "--licence", "mit", code=1
    )
    hub.point("hf_of_an_é")
    assert "the token holds characters that no token has" in refused(capsys, "predict", "org/tb", "film.png")


def test_a_card_the_hub_does_not_take_makes_no_repository(hub):
    with pytest.raises(ValueError, match="must be one of"):
        publish_files("org/tb", "model", {"README.md": b"---\nlicense: foo\n---\n"}, False, "")
    assert hub.commits == {}


def test_gated_private_and_missing_models_are_told_apart_with_the_cure(hub):
    for name in ("gated", "private", "public"):
        publish_files(f"org/{name}", "model", MODEL, name == "private", "a model")
    hub.gated.add("models/org/gated")
    expected = {
        (None, "org/gated"): "gated .*ask for access .*log in",
        (OTHER, "org/gated"): "gated .*ask for access",
        (None, "org/private"): "no such repository, or it is private .*log in",
        (OTHER, "org/private"): "private and not for the account of your token",
        (OTHER, "org/missing"): "no such repository",
        (OTHER, "org/public@v9"): "no such branch, tag or commit",
    }
    for (token, name), sentence in expected.items():
        hub.point(token)
        with pytest.raises(UsageError, match=f"{name}: no such folder here; on the Hub: .*{sentence}"):
            load_run(name)
    hub.point()
    assert (load_run("org/gated").path / "config.json").is_file()
    assert (load_run("org/private").path / "config.json").is_file()


def test_a_space_says_that_it_cannot_read_a_private_or_gated_model(hub, capsys):
    for name in ("gated", "private", "public"):
        publish_files(f"org/{name}", "model", MODEL, name == "private", "a model")
    hub.gated.add("models/org/gated")
    words = ["push-space", "--repo-id", "org/app", "--tb", "org/gated", "--covid", "org/private"]
    assert main([*words, "--three-class", "org/public"]) == 0
    said = capsys.readouterr().out
    for name in ("gated", "private"):
        assert f"org/{name} is {name}, and the Space cannot read it by itself: give the Space a secret HF_TOKEN" in said
    front = yaml.safe_load(hub.files("spaces", "org/app")["README.md"].decode().split("---")[1])
    assert front["models"] == ["org/gated", "org/private", "org/public"]
    assert [line.split()[0] for line in front["preload_from_hub"]] == ["org/public"]
    hub.point(OTHER)
    said = refused(capsys, *words, code=1)
    assert "--covid org/private: no such repository, or it is private" in said


def test_a_model_of_another_kind_is_no_model_for_the_space(hub, capsys):
    publish_files("org/vit", "model", {"README.md": CARD, "model.safetensors": b"weights"}, False, "another")
    assert "holds no model of cxr-hub" in refused(capsys, "push-space", "--repo-id", "org/app", "--tb", "org/vit")
    assert "--repo-id a/b/c" in refused(capsys, "push-space", "--repo-id", "a/b/c", "--tb", "org/vit")
    assert "spaces/org/app" not in hub.commits
    hub_model = publish_files("org/tb", "model", MODEL, False, "a model").commit.rpartition("/")[2]
    assert f'revision = "{hub_model}"'.encode() in space_files({"tb": find_model("org/tb@main")})["models.toml"]


def test_files_that_are_gone_leave_the_repository_and_others_stay(hub):
    card = {"README.md": CARD}
    old = {**card, "data/train-00001-of-00002.parquet": b"old", "notes.txt": b"mine"}
    publish_files("org/films", "dataset", old, False, "two shards")
    new = {**card, "data/train-00000-of-00001.parquet": b"new"}
    assert publish_files("org/films", "dataset", new, False, "one", ("data/*-of-*.parquet",)).changed
    assert set(hub.files("datasets", "org/films")) == {*new, "notes.txt"}
    assert not publish_files("org/films", "dataset", new, False, "the same", ("data/*-of-*.parquet",)).changed


@pytest.mark.parametrize("sent", [0, 1500, 4000, 20_000])
def test_a_server_that_goes_away_is_one_sentence(sent, hub, finished, capsys):
    line = Line(hub)
    hub.point()
    line.cut_after(sent)
    words = ("push", finished, *TO_TB, "--licence", "mit")
    said = refused(capsys, *words, code=1)
    assert "run the command again" in said
    assert "Traceback" not in said
    line.mend()
    assert main([*words]) == 0
    line.cut_after(0)
    with pytest.raises(WorkError, match=r"org/tb: no such folder here; on the Hub: .*run the command again"):
        load_run("org/tb")


def test_a_download_that_breaks_off_is_failed_work(hub):
    publish_files("org/tb", "model", MODEL, False, "a model")
    hub.fail["/cdn/"] = [500] * 50
    with pytest.raises(WorkError, match=r"500.*run the command again"):
        load_run("org/tb")


def test_a_dry_run_without_a_hub_notes_what_it_could_not_check(hub, finished, capsys):
    hub.endpoint = "http://127.0.0.1:9"
    hub.point(None)
    assert main(["push", finished, *TO_TB, "--licence", "mit", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "neither the licence nor the repository could be checked" in said.err
    assert "nothing was sent" in said.out


@pytest.mark.parametrize(
    "error",
    [RuntimeError("Illegal header value b'Bearer hf_secret'"), ConnectionError("hf_secret"), ValueError("hf_secret")],
)
def test_no_message_holds_a_token(error):
    with pytest.raises((UsageError, WorkError)) as raised, hub_errors("org/tb"):
        raise error
    assert "secret" not in str(raised.value)


def test_a_cache_or_token_that_cannot_be_opened_is_named_with_the_cure(hub, monkeypatch, capsys):
    hub.point(None)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/dev/null/token")
    for words in (("predict", "org/tb", "film.png"), ("push-space", *TO_TB, "--tb", "org/tb")):
        assert "/dev/null/token cannot be used (Not a directory): set HF_HOME" in refused(capsys, *words, code=1)


def test_a_command_that_is_kept_offline_says_so():
    with pytest.raises(WorkError, match="HF_HUB_OFFLINE is set"), hub_errors("org/tb"):
        raise OfflineModeIsEnabled("offline")


def test_the_licence_is_kept_for_the_next_push(hub, finished):
    path = load_run(finished).path
    before = [(path / name).read_bytes() for name in ("recipe.json", "README.md")]
    assert main(["push", finished, *TO_TB, "--licence", "apache-2.0", "--dry-run"]) == 0
    assert [(path / name).read_bytes() for name in ("recipe.json", "README.md")] == before
    assert hub.commits == {}
    assert main(["push", finished, *TO_TB, "--licence", "MIT"]) == 0
    assert json.loads((path / "recipe.json").read_text())["licence"] == "mit"


def test_a_backbone_that_is_gated_private_or_missing_is_told_with_the_cure(hub):
    for name in ("gated", "private"):
        publish_files(f"org/{name}", "model", MODEL, name == "private", "a model")
    hub.gated.add("models/org/gated")
    expected = {
        "gated": "gated .*ask for access",
        "private": "no such repository, or it is private .*account",
        "missing": "no such repository",
    }
    hub.point(OTHER)
    for name, sentence in expected.items():
        with pytest.raises(UsageError, match=f"backbone org/{name} cannot be loaded: {sentence}"):
            load_backbone(get_recipe("tb-finetuned"), f"org/{name}", True)
