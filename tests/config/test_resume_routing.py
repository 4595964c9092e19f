"""checkpoint.resume_from reaches the stage in whose folder the file lies, or an error says what to do."""

from pathlib import Path

import pytest
from omegaconf.errors import OmegaConfBaseException

from miipher2.config.params import compose_params
from miipher2.config.paths import ROOT


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
        ("exp/adapter_mini/published/checkpoint_100.pt", "dvc get"),
        ("exp/nobody/checkpoint_100.pt", "lies in no stage's folder"),
        ("exp/adapter_mini/checkpoint_none.pt", "Checkpoint specified in `resume_from` not found"),
        ("{train_vocoder: x.pt}", "train_vocoder"),
        ("[exp/adapter_mini/a.pt,exp/adapter_mini/b.pt]", "name one"),
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
        compose_params(["train_adapter.checkpoint.resume_from=exp/adapter_mini/x.pt"])
    assert "-S checkpoint.resume_from=" in str(caught.value)
