"""Every configuration composes, is whole, and stops at what is wrong."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from miipher2.config.params import compose_params, find_staleness
from miipher2.config.paths import ROOT
from miipher2.config.schema import SCHEMAS

CONFIGS = sorted(path for stage in SCHEMAS for path in (ROOT / "configs" / stage).glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml"))


def composed(stage: str, name: str, *overrides: str) -> DictConfig:
    """Compose a stage's configuration as its script does."""
    Plugins.instance()
    with initialize_config_dir(str(ROOT / "configs" / stage), version_base="1.3"):
        return compose(name, overrides=list(overrides))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_stage_config_composes_and_is_whole(path: Path) -> None:
    overrides = ["source=data/embedded"] if path.parent.name == "data" and path.stem != "embedded" else []
    config = stage_config(composed(path.parent.name, path.stem, *overrides), path.parent.name)
    assert config.get("name", path.stem) == path.stem


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_with_one_encoder_and_layer_for_all_stages(name: str) -> None:
    params = compose_params([f"experiment={name}", "data.source=data/embedded"])
    stages = [stage_config(params, stage) for stage in ("train_adapter", "pre_train_vocoder", "finetune_vocoder")]
    assert len({(stage.model.hubert_model_name, stage.model.hubert_layer) for stage in stages}) == 1
    assert stages[0].model.adapter_hidden_dim == stages[2].model.adapter_hidden_dim
    assert stages[2].init_from.adapter == f"exp/{stages[0].name}/published"


def test_params_yaml_fits_configs() -> None:
    assert find_staleness(OmegaConf.load(ROOT / "params.yaml")) is None
    assert OmegaConf.load(ROOT / "params.yaml") == compose_params([])


def test_a_hand_edited_resume_from_is_found(tmp_path: Path) -> None:
    params = compose_params([])
    params.checkpoint.resume_from = "exp/adapter_mini/checkpoint_100.pt"
    folder = ROOT / "exp" / "adapter_mini"
    file = folder / "checkpoint_100.pt"
    if not file.exists():
        pytest.skip("no such checkpoint here; the pipeline test covers it")
    assert "edited by hand" in str(find_staleness(params))


def test_an_edited_config_is_found() -> None:
    params = compose_params([])
    params.configs_digest = "0" * 16
    assert "uv run python -m miipher2.compose" in str(find_staleness(params))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("optim.learning_rate=1", "learning_rate"),
        ("+optim.learning_rate=1", "learning_rate"),
        ("batch_size=many", "batch_size"),
        ("batch_size=0", "batch_size=0"),
        ("precision=fp16", "precision=fp16"),
        ("model.hubert_layer=0", "model.hubert_layer=0"),
        ("model.hubert_layer=three", "model.hubert_layer=three"),
        ("model.hubert_layer=[3,1]", "model.hubert_layer=[3, 1]"),
        ("optim.scheduler.name=linear", "optim.scheduler.name=linear"),
        ("data.crop_seconds=1.99", "data.crop_seconds=1.99"),
        ("model.sample_rate_hz=22051", "model.sample_rate_hz=22051"),
        ("data.segment_frames=999", "data.segment_frames=999"),
        ("encoder_input=noise", "encoder_input=noise"),
        ("checkpoint.on_config_change=ignore", "checkpoint.on_config_change=ignore"),
        ("data.prepared=???", "data.prepared"),
        ("wandb.examples.count=-1", "wandb.examples.count=-1"),
        ("wandb.examples.seconds=0.05", "wandb.examples.seconds=0.05"),
        ("wandb.examples.times=0", "wandb.examples.times=0"),
    ],
)
def test_a_wrong_value_stops_at_once_and_names_the_key(override: str, named: str) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException, ValueError)) as caught:
        stage_config(composed("pre_train_vocoder", "hifigan_pretrain_mini", override), "pre_train_vocoder")
    assert named in str(caught.value)


def test_a_resume_goes_to_the_stage_in_whose_folder_the_file_lies(tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.pt"
    file.write_bytes(b"checkpoint")
    params = compose_params([f"checkpoint.resume_from={{finetune_vocoder: {file}}}"])
    assert params.resume.finetune_vocoder["from"] == str(file)
    assert len(params.resume.finetune_vocoder.sha256) == 64
    assert params.resume.train_adapter is None
    assert params.resume_param.train_adapter == "train_adapter.name"
    assert params.resume_param.finetune_vocoder == "resume.finetune_vocoder"


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("exp/adapter_mini/published/checkpoint_100.pt", "dvc get"),
        ("exp/nobody/checkpoint_100.pt", "lies in no stage's folder"),
        ("exp/adapter_mini/checkpoint_none.pt", "Checkpoint specified in `resume_from` not found"),
        ("{train_vocoder: x.pt}", "train_vocoder"),
        ("[exp/adapter_mini/a.pt,exp/adapter_mini/b.pt]", "name one"),
    ],
)
def test_a_resume_that_cannot_be_routed_says_what_to_do(path: str, named: str) -> None:
    with pytest.raises((OmegaConfBaseException, ValueError, FileNotFoundError)) as caught:
        compose_params([f"checkpoint.resume_from={path}"])
    assert named in str(caught.value)


def test_a_relative_path_from_a_subfolder_says_where_it_is_taken_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT / "stages")
    with pytest.raises((OmegaConfBaseException, ValueError)) as caught:
        compose_params(["checkpoint.resume_from=../exp/x/checkpoint_1k.pt"])
    assert str(ROOT) in str(caught.value)


def test_the_other_stages_are_not_touched_by_their_own_resume_key() -> None:
    with pytest.raises((OmegaConfBaseException, ValueError)) as caught:
        compose_params(["train_adapter.checkpoint.resume_from=exp/adapter_mini/x.pt"])
    assert "-S checkpoint.resume_from=" in str(caught.value)
