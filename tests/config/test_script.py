"""A user's mistake is one line and exit code 1; a bug keeps its traceback."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch._utils import ExceptionWrapper

from miipher2.audio.decode import AudioError
from miipher2.config.load import load_config
from miipher2.config.paths import ROOT
from miipher2.config.schema import AdapterConfig
from miipher2.config.script import is_user_error, message_of
from miipher2.training.checkpoint import CheckpointError, load


def run_script(*overrides: str, cwd: Path = ROOT) -> tuple[int, str]:
    """Run stages/train_adapter.py in a process of its own; return its exit code and standard error."""
    words = [sys.executable, str(ROOT / "stages/train_adapter.py"), "--config-name=adapter_mini", *overrides]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "checkpoint.resume_from=/none/checkpoint_1k.pt",
            "FileNotFoundError: Checkpoint specified in `resume_from` not found: /none/checkpoint_1k.pt",
        ),
        ("optim.learning_rate=1", "ConfigCompositionException: Could not override 'optim.learning_rate': Key "),
        (
            "optim.lr=abc",
            "ConfigCompositionException: Error merging override optim.lr=abc: Value 'abc' of type 'str' could",
        ),
        ("runtime.device=gpu", "ValueError: runtime.device=gpu: should be auto, cpu, cuda or cuda:<index>"),
        ("batch_size=0", "ValueError: batch_size=0: should be greater than 0"),
        ("data.prepared=nowhere", "FileNotFoundError: data.prepared=nowhere: "),
    ],
)
def test_a_users_mistake_is_one_line(override: str, line: str) -> None:
    code, text = run_script("name=test_script_never_made", override)
    assert code == 1
    assert text.startswith(line)
    assert text.count("\n") == 1
    assert not (ROOT / "exp/test_script_never_made").exists()


def raises(call: Callable[[], object]) -> Exception:
    """Return what a call raises."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any
        call()
    return caught.value


def test_only_errors_raised_on_purpose_are_the_users(tmp_path: Path) -> None:
    assert is_user_error(raises(lambda: load(tmp_path / "checkpoint_1.pt")))
    assert is_user_error(raises(lambda: load_config(OmegaConf.create({"steps": 0}), "train_adapter", AdapterConfig)))
    assert is_user_error(raises(lambda: (tmp_path / "none").read_text()))
    assert not is_user_error(raises(lambda: torch.ones(2) @ torch.ones(3)))
    assert not is_user_error(raises(lambda: int("three")))
    assert not is_user_error(raises(lambda: [][1]))
    assert not is_user_error(AssertionError())


def test_a_data_workers_error_is_the_users_and_its_message_one_line() -> None:
    try:
        raise AudioError("a.wav: cannot be read")
    except AudioError:
        wrapper = ExceptionWrapper(where="in DataLoader worker process 0")
    error = raises(wrapper.reraise)
    assert "Traceback" in str(error)
    assert is_user_error(error)
    assert message_of(error) == "a.wav: cannot be read"


def test_an_error_of_ours_that_wraps_a_bug_keeps_its_traceback() -> None:
    def restore() -> None:
        try:
            _ = [][1]
        except LookupError as error:
            raise CheckpointError("does not fit") from error

    assert not is_user_error(raises(restore))
