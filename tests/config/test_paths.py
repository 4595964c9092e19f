"""No setting becomes a path that is emptied or overwritten: runs, prepared data and outputs follow one rule."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from miipher2.config import paths
from miipher2.config.load import check_pipeline
from miipher2.config.params import compose_config, compose_params, find_problem
from miipher2.config.paths import (
    ROOT,
    check_distinct,
    check_keeps_inputs,
    check_output,
    check_replaces_nothing,
    find_run_problem,
)
from miipher2.config.schema import TRAINING_STAGES
from miipher2.config.schema_data import PrepareDataConfig
from miipher2.preparation.prepare import prepare
from miipher2.training.stage import run_stage

WRONG_NAMES = (
    *("", ".", "..", "/tmp/x", "../x", "a/../b", "a//b", "a/", "/", ".x", "a/.x", "a\\b", "a\nb", "a\0b", " a", "a "),
    *("results", "report", "results/a", "README.md", "Report", "published", "a/published", "a/wandb", "x" * 201),
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder the repository."""
    (tmp_path / "repository/exp").mkdir(parents=True)
    monkeypatch.setattr(paths, "ROOT", tmp_path / "repository")
    return tmp_path / "repository"


def tree(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


@functools.cache
def composed(stage: str = "") -> Any:
    return compose_config("adapter_mini", group=stage) if stage else compose_params([])


def by_hand(name: str) -> str:
    """Return the line with which stages/train_adapter.py refuses a name."""
    config = copy.deepcopy(composed("train_adapter"))
    config.name = name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("miipher2.training.stage.log_to_stdout", lambda level: None)  # for good, or other tests print too
        with pytest.raises(ValueError, match=r"^name=") as caught:
            run_stage(config, "train_adapter")
    return str(caught.value)


def under_dvc(**values: str) -> str:
    """Return the line with which the pipeline with these values is refused, before DVC is given it."""
    params = copy.deepcopy(composed())
    for key, value in values.items():
        OmegaConf.update(params, key.replace("__", "."), value)
    with pytest.raises(ValueError, match="=") as caught:
        check_pipeline(params)
    return str(caught.value)


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_name_that_is_no_run_is_refused_by_hand_and_for_dvc(name: str) -> None:
    line = by_hand(name)
    assert under_dvc(train_adapter__name=name) == f"train_adapter.{line}"
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("stage", TRAINING_STAGES)
def test_every_stage_has_the_rule(stage: str) -> None:
    with pytest.raises(ValueError, match=rf"^{stage}\.name='': should be one or more file names"):
        compose_params([f"{stage}.name="])


def test_check_params_reads_the_same_rule() -> None:
    params = copy.deepcopy(composed())
    params.data.prepared = "src"
    assert str(find_problem(params)).startswith("data.prepared=src: is in src, a part of the repository")


@pytest.mark.parametrize("name", ["a", "a/b", "run 1", "lr=1e-3", "音声", "a.b", "x" * 200])
def test_other_names_are_allowed(name: str, root: Path) -> None:
    params = copy.deepcopy(composed())
    params.train_adapter.name = name
    check_pipeline(params)
    assert find_run_problem(name) is None


@pytest.mark.parametrize(("made", "name"), [("a/b", "a"), ("a", "a/b"), ("a/b/c", "a"), ("a", "a/b/c")])
@pytest.mark.parametrize("mark", ["config.yaml", "checkpoint_1.pt", "published/final.safetensors"])
def test_a_name_inside_or_around_another_run_is_refused(made: str, name: str, mark: str, root: Path) -> None:
    file = root / "exp" / made / mark
    file.parent.mkdir(parents=True)
    file.touch()
    assert f"the run exp/{made}" in str(find_run_problem(name))
    assert find_run_problem(made) is None
    before = tree(root)
    assert under_dvc(train_adapter__name=name) == f"train_adapter.{by_hand(name)}"
    assert tree(root) == before


def test_a_folder_that_holds_files_and_no_run_is_not_set_aside(root: Path) -> None:
    (root / "exp/mine").mkdir()
    assert find_run_problem("mine") is None
    (root / "exp/mine/thesis.tex").touch()
    assert find_run_problem("mine") == "exp/mine holds thesis.tex and no run; give this run another name"
    (root / "exp/file").touch()
    assert "no folder" in str(find_run_problem("file"))
    (root / "exp/home").symlink_to(root.parent)
    assert "no run" in str(find_run_problem("home"))


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_two_stages_do_not_share_a_folder(names: tuple[str, str]) -> None:
    line = under_dvc(train_adapter__name=names[0], finetune_vocoder__name=names[1])
    assert "give each stage another name" in line


@pytest.mark.parametrize(
    "prepared", ["", ".", "..", "/", "src", "src/new", "configs", ".git/x", ".dvc/cache", "data", "data/embedded/en",
                 "exp", "exp/results", "exp/report/x", "mine", "run/prepared", "linked"]
)  # fmt: skip
def test_prepared_data_replaces_only_itself(prepared: str, root: Path) -> None:
    (root / "mine").mkdir()
    (root / "mine/letter.txt").write_text("dear")
    (root / "src").mkdir()
    (root / "linked").symlink_to(root / "src")
    (root / "exp/run").mkdir()
    (root / "exp/run/config.yaml").touch()
    prepared = prepared.replace("run/", "exp/run/")
    speech = str(ROOT / "data/embedded")
    before = tree(root)
    assert under_dvc(data__prepared=prepared, data__source=speech).startswith("data.prepared=")
    config = PrepareDataConfig(source=speech, prepared=prepared, seed=0, noise_files=1, rooms=1)
    with pytest.raises(ValueError, match=r"^prepared="):
        prepare(config, root)
    assert tree(root) == before


def test_an_input_is_no_output(root: Path) -> None:
    folder = root / "speech/en"
    folder.mkdir(parents=True)
    for prepared in ("speech", "speech/en"):
        with pytest.raises(ValueError, match="the input"):
            PrepareDataConfig(source="speech/en", prepared=prepared).check_prepared(root)
        with pytest.raises(ValueError, match="the input"):
            PrepareDataConfig(source="other", noise_folder="speech/en", prepared=prepared).check_prepared(root)
    PrepareDataConfig(source="speech", prepared="prepared/x").check_prepared(root)


def test_prepared_data_with_a_file_of_the_user_is_not_replaced(root: Path) -> None:
    config = PrepareDataConfig(source="speech", prepared="prepared/x")
    (root / "prepared/x/noise").mkdir(parents=True)
    for name in ("manifest.parquet", "manifest.arrow", "weights.json", "report.json", "rooms.parquet"):
        (root / "prepared/x" / name).touch()
    config.check_prepared(root)
    (root / "prepared/x/notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds notes\.txt, which would be lost"):
        config.check_prepared(root)


def test_a_run_is_no_output_either(root: Path) -> None:
    (root / "exp/run").mkdir()
    check_output(root / "exp/run/x.wav")
    (root / "exp/run/config.yaml").touch()
    for name in ("exp/run", "exp/run/x.wav", "exp/run/samples"):
        with pytest.raises(ValueError, match="is in the run exp/run"):
            check_output(root / name)
    (root / "elsewhere").mkdir()
    (root / "elsewhere/config.yaml").touch()
    check_output(root / "elsewhere/x")


def test_an_output_is_not_an_input_of_another_job(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "in").mkdir()
    check_keeps_inputs([(tmp_path / "a.wav", tmp_path / "b.wav")])
    with pytest.raises(ValueError, match=r"a\.wav: would be replaced by"):
        check_keeps_inputs([(tmp_path / "b.wav", tmp_path / "in/../a.wav"), (tmp_path / "a.wav", tmp_path / "c.wav")])


def test_names_that_differ_in_case_alone_are_refused_where_they_would_be_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [(tmp_path / name, tmp_path / "new/out" / name) for name in ("a.wav", "A.wav", "b.wav")]
    check_distinct(jobs)
    assert [*tmp_path.iterdir()] == []
    monkeypatch.setattr(paths, "ignores_case", lambda folder: True)
    with pytest.raises(ValueError, match=r"a\.wav and .*A\.wav would both become .*ignores case; rename one"):
        check_distinct(jobs)
    check_distinct(jobs[1:])


def test_a_commands_file_of_the_same_name_that_is_the_users_is_kept(tmp_path: Path) -> None:
    (tmp_path / "index.html").touch()
    with pytest.raises(ValueError, match=r"index\.html: would be replaced"):
        check_replaces_nothing(tmp_path, ["index.html"], "evaluate.csv")
    (tmp_path / "evaluate.csv").touch()
    check_replaces_nothing(tmp_path, ["index.html"], "evaluate.csv")
