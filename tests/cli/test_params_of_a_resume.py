"""A params.yaml whose resume has ended is in order without its checkpoint; any other says how to compose it anew."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_checkpoints import Command

from miipher2.config.command import DVC_RUN
from miipher2.config.paths import ROOT

FILE = "exp/adapter_embedded/checkpoint_4.pt"


@pytest.fixture
def resumed(here: Path, miipher2: Command) -> Path:
    """Return a repository in which the adapter has resumed, with an override, and `dvc.lock` has it as finished."""
    (here / FILE).parent.mkdir(parents=True)
    (here / FILE).write_bytes(b"checkpoint")
    assert miipher2("params", "evaluate.seed=3", f"checkpoint.resume_from={FILE}").code == 0
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    params = yaml.safe_load((here / "params.yaml").read_text())
    locked = {}
    for stage in ("train_adapter", "pre_train_vocoder", "finetune_vocoder"):
        keys = [params["resume_param"][stage], *stages[stage]["params"][1:]]
        locked[stage] = {"params": {"params.yaml": {key: value_of(params, key) for key in keys}}}
    (here / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": locked}))
    return here


def value_of(params: Any, key: str) -> Any:
    for part in key.split("."):
        params = params[part]
    return params


def edit(root: Path, old: str, new: str, file: str = "params.yaml") -> None:
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new))


def problem(miipher2: Command) -> tuple[str, list[str]]:
    """Return what doctor says of params.yaml, and the words of the command that it prints."""
    (found,) = (one for one in json.loads(miipher2("doctor", "--json").out) if one["kind"] == "params")
    (command,) = found["commands"]
    return found["text"], shlex.split(command)


def test_a_resume_that_has_ended_is_history(resumed: Path, miipher2: Command) -> None:
    for change in ((resumed / FILE).unlink, lambda: (resumed / FILE).write_bytes(b"another run's")):
        change()
        assert miipher2("params", "--check").code == 0
    assert miipher2("doctor").code == 0
    edit(resumed, "report_examples: 6", "report_examples: 3")  # the next edit, of another stage
    assert miipher2("params", "--check").code == 0


def test_it_is_not_history_where_the_lock_differs(resumed: Path, miipher2: Command) -> None:
    (resumed / FILE).unlink()
    edit(resumed, "steps: 200", "steps: 201")
    result = miipher2("params", "--check")
    assert result.code == 1
    assert f"Checkpoint specified in `resume_from` not found: {FILE}" in result.error
    text, words = problem(miipher2)
    assert text.startswith(f"Checkpoint specified in `resume_from` not found: {FILE}")
    assert words == ["uv", "run", "miipher2", "params", "evaluate.seed=3"]
    assert miipher2(*words[3:]).code == 0
    assert miipher2("doctor").code == 0


def test_without_a_lock_the_checkpoint_has_to_be_the_one_that_params_names(resumed: Path, miipher2: Command) -> None:
    (resumed / "dvc.lock").unlink()
    assert miipher2("params", "--check").code == 0
    (resumed / FILE).write_bytes(b"another run's")
    text, words = problem(miipher2)
    assert text.startswith(f"{FILE} is not the file that params.yaml names")
    assert words[3:] == ["params", "evaluate.seed=3", f"checkpoint.resume_from={FILE}"]
    again = shlex.split(text.partition("name it again: ")[2])
    assert again == [*DVC_RUN, "-S", "evaluate.seed=3", "-S", f"checkpoint.resume_from={FILE}"]
    assert miipher2(*words[3:]).code == 0
    assert miipher2("doctor").code == 0


def test_a_stale_params_yaml_is_composed_anew_with_its_overrides(resumed: Path, miipher2: Command) -> None:
    edit(resumed, "steps: 200", "steps: 210", "configs/train_adapter/adapter_embedded.yaml")
    text, words = problem(miipher2)
    assert words[3:] == ["params", "evaluate.seed=3", f"checkpoint.resume_from={FILE}"]
    assert f"run `{shlex.join(words)}`, or use `uv run dvc exp run -S evaluate.seed=3 -S checkpoint" in text
    edit(resumed, "- evaluate.seed=3", "- evaluate.nothing=3")
    _, words = problem(miipher2)
    assert words[3:] == ["params"]


def test_a_resume_removed_by_hand_is_composed_anew_without_it(resumed: Path, miipher2: Command) -> None:
    edit(resumed, f"checkpoint:\n  resume_from: {FILE}", "checkpoint:\n  resume_from: null")
    text, words = problem(miipher2)
    assert "resume_from=None was edited by hand" in text
    assert text.endswith("run `uv run dvc exp run -S evaluate.seed=3`")
    assert words[3:] == ["params", "evaluate.seed=3"]
    edit(resumed, "checkpoint:\n  resume_from: null", "checkpoint:\n  resume_from: [null]")
    assert problem(miipher2)[0].startswith("checkpoint.resume_from[0]=None is null; should be")
