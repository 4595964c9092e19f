"""Every configuration composes and is complete, and a wrong key or value stops at once and is named."""

from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from miipher2.config.load import load_config
from miipher2.config.params import compose_config, compose_params
from miipher2.config.paths import ROOT
from miipher2.config.schema import GENERATORS, SCHEMAS, TRAINING_STAGES, AdapterConfig, VocoderConfig

CONFIGS = sorted(path for stage in SCHEMAS for path in (ROOT / "configs" / stage).glob("*.yaml"))
EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_stage_configuration_composes_and_is_complete(path: Path) -> None:
    stage = path.parent.name
    overrides = ["source=data/embedded"] if stage == "data" and path.stem != "embedded" else []
    config = load_config(compose_config(path.stem, overrides, group=stage), stage, SCHEMAS[stage])
    assert getattr(config, "name", path.stem) == path.stem


@pytest.mark.parametrize("name", [None, *EXPERIMENTS], ids=lambda name: name or "default")
def test_every_experiment_uses_one_encoder_and_layer_in_all_stages(name: str | None) -> None:
    params = compose_params([*([f"experiment={name}"] if name else []), "data.source=data/embedded"])
    stages: list[Any] = [load_config(params, stage, SCHEMAS[stage]) for stage in TRAINING_STAGES]
    assert len({(stage.model.hubert_model_name, str(stage.model.hubert_layer)) for stage in stages}) == 1
    assert stages[0].model.adapter_hidden_dim == stages[2].model.adapter_hidden_dim
    assert stages[2].init_from.adapter == f"exp/{stages[0].name}/published"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.learning_rate=1", "learning_rate"),
        ("+optim.learning_rate=1", "learning_rate"),
        ("batch_size=many", "batch_size"),
        ("batch_size=0", "batch_size=0: should be greater than 0"),
        ("optim.lr=-1", "optim.lr=-1.0: should be greater than 0"),
        ("optim_discriminator.lr=0", "optim_discriminator.lr=0.0: should be greater than 0"),
        ("optim.lr=nan", "optim.lr=nan: should be greater than 0"),
        ("optim.lr=inf", "optim.lr=inf: should be finite"),
        ("loss.mel=inf", "loss.mel=inf: should be finite"),
        ("data.level_db=[-inf,inf]", "data.level_db=[-inf, inf]: should be finite"),
        ("data.crop_seconds=inf", "data.crop_seconds=inf: should be finite"),
        ("seed=99999999999999999999", "seed=99999999999999999999: should be from -2**63 to 2**64 - 1"),
        ("runtime.device=gpu", "runtime.device=gpu: should be auto, cpu, cuda or cuda:<index>"),
        ("runtime.launch=", "runtime.launch='': should not be empty"),
        ("model.hubert_model_name=", "model.hubert_model_name='': should not be empty"),
        ("name=", "name='': should be one or more file names"),
        ("checkpoint.resume_from=true", "checkpoint.resume_from=True: should be the path of a checkpoint, or null"),
        ("checkpoint.resume_from=200", "checkpoint.resume_from=200: should be the path of a checkpoint, or null"),
        ("checkpoint.resume_from=[null]", "checkpoint.resume_from=[None]: should be the path of a checkpoint"),
        ("checkpoint.resume_from={train_adapter: [x]}", "checkpoint.resume_from={'train_adapter': ['x']}: should be"),
        ("checkpoint.resume_from=", "checkpoint.resume_from='': should be the path of a checkpoint, or null"),
        ("+resume_from=x", "resume_from"),
        ("+checkpoint.resume_fron=x", "resume_fron"),
        ("optim.betas=[0.9]", "optim.betas=[0.9]: should be two numbers from 0 to below 1"),
        ("ema_decay=1.5", "ema_decay=1.5: should be from 0 to 1"),
        ("loss.mel=-1", "loss.mel=-1.0: should be at least 0"),
        ("model.generator.kernels=[]", "model.generator.kernels=[]: should list numbers greater than 0"),
        ("precision=fp16", "precision=fp16: should be one of auto, fp32, tf32, bf16"),
        ("model.hubert_layer=0", "model.hubert_layer=0"),
        ("model.hubert_layer=three", "model.hubert_layer=three"),
        ("model.hubert_layer=[3,1]", "model.hubert_layer=[3, 1]"),
        ("model.generator.kind=wavenet", "model.generator.kind=wavenet: should be one of hifigan"),
        ("optim.scheduler.name=linear", "optim.scheduler.name=linear"),
        ("optim.scheduler.decay_steps=0", "optim.scheduler.decay_steps=0: should be greater than warmup_steps"),
        ("data.crop_seconds=1.99", "data.crop_seconds=1.99: should be a whole number of frames"),
        ("model.sample_rate_hz=22051", "model.sample_rate_hz=22051"),
        ("data.segment_frames=999", "data.segment_frames=999: the crop has"),
        ("degradation.noise.snr_db=[30,5]", "degradation.noise.snr_db=[30.0, 5.0]: should be [low, high]"),
        ("degradation.room.probability=2", "degradation.room.probability=2.0: should be from 0 to 1"),
        ("encoder_input=noise", "encoder_input=noise"),
        ("checkpoint.on_config_change=ignore", "checkpoint.on_config_change=ignore"),
        ("data.prepared=???", "data.prepared"),
        ("wandb.examples.count=-1", "wandb.examples.count=-1"),
        ("wandb.examples.seconds=0.05", "wandb.examples.seconds=0.05"),
        ("wandb.examples.times=0", "wandb.examples.times=0"),
    ],
)
def test_a_wrong_key_or_value_stops_at_once_and_is_named(override: str, message: str) -> None:
    def load() -> None:
        composed = compose_config("hifigan_pretrain_mini", [override], group="pre_train_vocoder")
        load_config(composed, "pre_train_vocoder", VocoderConfig)

    with pytest.raises((HydraException, OmegaConfBaseException, ValueError)) as caught:
        load()
    assert message in str(caught.value)


def test_an_infinite_gradient_norm_clips_nothing_and_is_allowed() -> None:
    composed = compose_config("adapter_mini", ["optim.max_grad_norm=inf"], group="train_adapter")
    assert load_config(composed, "train_adapter", AdapterConfig).optim.max_grad_norm == float("inf")


def test_the_configuration_is_dataclasses_down_to_the_last_section() -> None:
    config = load_config(
        compose_config("harmonic_pretrain_mini_long", group="pre_train_vocoder"), "pre_train_vocoder", VocoderConfig
    )
    pending: list[object] = [config]
    while pending:
        section = pending.pop()
        assert is_dataclass(section)
        values = [getattr(section, each.name) for each in fields(section)]
        assert not any(OmegaConf.is_config(value) for value in values)
        pending += [value for value in values if is_dataclass(value)]
    assert type(config.model.generator) is GENERATORS["harmonic_vocos"]


def test_plain_values_of_a_configuration_load_to_the_same_configuration() -> None:
    composed = compose_config("hifigan_ft_mini", group="finetune_vocoder")
    config = load_config(composed, "finetune_vocoder", VocoderConfig)
    assert load_config(OmegaConf.create(asdict(config)), "finetune_vocoder", VocoderConfig) == config
