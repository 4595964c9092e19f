"""The command that resumes a run repeats every setting of the command that started it."""

import shlex

import pytest
from omegaconf import OmegaConf

from miipher2.config.command import resume_command, starting_command, without_resume
from miipher2.config.params import compose_config, compose_params
from miipher2.config.paths import ROOT


def test_under_dvc_every_override_is_repeated() -> None:
    params = compose_params(["train_adapter.steps=8", "train_adapter.data.level_db=[-30,-20]"])
    command = resume_command(starting_command(params), "exp/adapter_embedded/checkpoint_1k.pt")
    assert shlex.split(command) == [
        *(
            "uv",
            "run",
            "dvc",
            "exp",
            "run",
            "-S",
            "train_adapter.steps=8",
            "-S",
            "train_adapter.data.level_db=[-30,-20]",
        ),
        *("-S", "checkpoint.resume_from=exp/adapter_embedded/checkpoint_1k.pt"),
    ]


def test_by_hand_the_script_and_its_words_are_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    script = str(ROOT / "stages/train_adapter.py")
    words = [script, "--config-name=adapter_embedded", "seed=4", "checkpoint.resume_from=exp/a/checkpoint_1.pt"]
    monkeypatch.setattr("sys.argv", words)
    command = resume_command(
        starting_command(OmegaConf.create({}), ["torchrun", "--standalone", "--nproc-per-node=2"]),
        str(ROOT / "exp/a/checkpoint_2.pt"),
    )
    assert command == (
        "uv run torchrun --standalone --nproc-per-node=2 stages/train_adapter.py --config-name=adapter_embedded seed=4 "
        "checkpoint.resume_from=exp/a/checkpoint_2.pt"
    )


@pytest.mark.parametrize(
    "path", ["/tmp/a b/1.pt", "/tmp/it's/1.pt", "/tmp/{x}/1.pt", "/tmp/é/1.pt", r"/tmp/a\b/1.pt", r"/tmp/a\'/1.pt"]
)
def test_a_path_with_special_characters_survives_shell_and_hydra(path: str) -> None:
    *_, word = shlex.split(resume_command(["uv", "run", "dvc", "exp", "run"], path))
    params_word = word.replace("checkpoint.resume_from=", "+path=")
    assert compose_config("pipeline", [params_word]).path == path


def test_interpolations_are_recorded_as_they_were_typed() -> None:
    words = ["train_adapter.validation_interval=${.log_interval}", "train_adapter.wandb.notes=50%", "+x=${oc.env:HOME}"]
    params = compose_params(words)
    assert params.train_adapter.validation_interval == params.train_adapter.log_interval
    assert starting_command(params)[5::2] == ["-S"] * len(words)
    assert starting_command(params)[6::2] == words


def test_only_the_resume_is_left_out() -> None:
    assert without_resume(["a=1", "checkpoint.resume_from=x", "+checkpoint.resume_from=y"]) == ["a=1"]
