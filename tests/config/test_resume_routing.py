"""checkpoint.resume_from reaches the stage in whose folder the file lies, or an error says what to do."""

import functools
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from miipher2.config import command, paths, resume_routing
from miipher2.config.params import compose_params
from miipher2.config.paths import ROOT
from miipher2.config.resume_routing import requested_for


def test_a_resume_is_routed_to_one_stage(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.pt"
    file.write_bytes(b"checkpoint")
    params = compose_params([f"checkpoint.resume_from={{finetune_vocoder: {file}}}"])
    assert params.resume.finetune_vocoder["from"] == str(file)
    assert len(params.resume.finetune_vocoder.sha256) == 64
    assert params.resume.train_adapter is None
    assert params.resume_param.train_adapter == "train_adapter.name"
    assert params.resume_param.finetune_vocoder == "resume.finetune_vocoder"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("exp/adapter_embedded/published/checkpoint_100.pt", "dvc get"),
        ("exp/nobody/checkpoint_100.pt", "lies in no stage's folder"),
        ("exp/adapter_embedded/checkpoint_none.pt", "Checkpoint specified in `resume_from` not found"),
        ("{train_vocoder: x.pt}", "train_vocoder"),
        ("[exp/adapter_embedded/a.pt,exp/adapter_embedded/b.pt]", "name one"),
    ],
)
def test_a_resume_that_cannot_be_routed_says_what_to_do(path: str, message: str) -> None:
    with pytest.raises((OmegaConfBaseException, ValueError, FileNotFoundError)) as caught:
        compose_params([f"checkpoint.resume_from={path}"])
    assert message in str(caught.value)


def test_a_relative_path_from_a_subfolder_says_where_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "stages")
    with pytest.raises((OmegaConfBaseException, ValueError)) as caught:
        compose_params(["checkpoint.resume_from=../exp/x/checkpoint_1k.pt"])
    assert str(ROOT) in str(caught.value)


def test_a_stages_own_resume_key_is_refused_under_dvc() -> None:
    with pytest.raises((OmegaConfBaseException, ValueError)) as caught:
        compose_params(["train_adapter.checkpoint.resume_from=exp/adapter_embedded/x.pt"])
    assert "-S checkpoint.resume_from=" in str(caught.value)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder with a checkpoint of the adapter the repository."""
    folder = tmp_path / "repository/exp/adapter_embedded"
    (folder / "published").mkdir(parents=True)
    for path in (folder / "checkpoint_4.pt", folder / "published/checkpoint_8.pt"):
        path.write_bytes(b"checkpoint")
    for module in (resume_routing, paths, command):
        monkeypatch.setattr(module, "ROOT", tmp_path / "repository")
    return tmp_path / "repository"


@functools.cache
def pipeline() -> DictConfig:
    return compose_params([])


def route(requested: Any, stage: str = "train_adapter") -> str | None:
    params = pipeline().copy()
    params.checkpoint.resume_from = requested
    return requested_for(stage, params)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "checkpoint.resume_from=True is true or false; should be the path of a checkpoint"),
        (200, "checkpoint.resume_from=200 is a number; should be the path of a checkpoint"),
        (1.5, "checkpoint.resume_from=1.5 is a number; should be the path of a checkpoint"),
        ("", "checkpoint.resume_from= is empty; should be the path of a checkpoint"),
        ([None], "checkpoint.resume_from[0]=None is null; should be the path of a checkpoint"),
        ([["x"]], "checkpoint.resume_from[0]=['x'] is a list; should be the path of a checkpoint"),
        ([{"a": "x"}], "checkpoint.resume_from[0]={'a': 'x'} is a mapping; should be the path of a checkpoint"),
        ({"train_adapter": ["x"]}, "checkpoint.resume_from.train_adapter=['x'] is a list; should be the path of"),
        ({"finetune_vocoder": 3}, "checkpoint.resume_from.finetune_vocoder=3 is a number; should be the path of"),
        ({1: "x"}, "checkpoint.resume_from: no stage 1; should be one of train_adapter"),
        ([], "checkpoint.resume_from=[] names no checkpoint; should be null for a fresh start"),
        ({}, "checkpoint.resume_from={} names no checkpoint; should be null for a fresh start"),
        (
            "exp/adapter_embedded",
            "checkpoint.resume_from=exp/adapter_embedded: is a folder; should be a checkpoint_*.pt in it",
        ),
        ({"train_adapter": "exp"}, "checkpoint.resume_from.train_adapter=exp: is a folder; should be"),
        ({"train_adapter": "exp/adapter_embedded/published/checkpoint_8.pt"}, "DVC empties published/"),
        ({"finetune_vocoder": "exp/adapter_embedded/published/checkpoint_8.pt"}, "DVC empties published/"),
    ],
)
def test_a_value_that_names_no_checkpoint_says_what_it_is_and_should_be(value: Any, message: str, root: Path) -> None:
    with pytest.raises(ValueError, match="resume_from") as caught:
        route(value)
    assert str(caught.value).startswith(message) or message in str(caught.value)


def test_a_path_through_a_link_is_that_of_the_file(root: Path) -> None:
    (root / "link").symlink_to(root / "exp/adapter_embedded")
    (root / "mine.pt").symlink_to(root / "exp/adapter_embedded/published/checkpoint_8.pt")
    (root / "loop.pt").symlink_to(root / "loop.pt")
    disk = root.parent / "disk"
    (root / "exp/adapter_embedded").rename(disk)
    (root / "exp/adapter_embedded").symlink_to(disk)
    for path in ("link/checkpoint_4.pt", "exp/adapter_embedded/checkpoint_4.pt", str(disk / "checkpoint_4.pt")):
        assert route(path) == path
        assert route(path, "finetune_vocoder") is None
    for requested in ("mine.pt", ["mine.pt"], {"train_adapter": "mine.pt"}, "link/published/checkpoint_8.pt"):
        with pytest.raises(ValueError, match="DVC empties published/"):
            route(requested)
    with pytest.raises(ValueError, match="lies in no stage's folder"):
        route("loop.pt")


def test_a_folder_is_named_as_such_by_hand(root: Path) -> None:
    with pytest.raises(ValueError, match="is a folder; should be a checkpoint_"):
        resume_routing.check_path("exp/adapter_embedded")
