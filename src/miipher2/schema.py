"""The schema of the configuration: what keys there are, and of which type. A key that is not here stops a run."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from miipher2.schema_data import DataConfig, DegradationConfig, LoaderConfig, PrepareDataConfig
from miipher2.schema_generator import GeneratorConfig


@dataclass
class SchedulerConfig:
    name: str = MISSING  # constant, cosine or exponential
    warmup_steps: int = 0
    decay_steps: int = 0  # cosine: the step at which the learning rate reaches its end
    final_ratio: float = 0.0  # cosine: learning rate at the end, as a share of optim.lr
    decay_per_step: float = 1.0  # exponential


@dataclass
class OptimConfig:
    lr: float = MISSING
    weight_decay: float = MISSING
    betas: list[float] = MISSING
    max_grad_norm: float = MISSING
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)


@dataclass
class EncoderConfig:
    hubert_model_name: str = MISSING  # a hub name, or a local folder as transformers writes it
    hubert_revision: str | None = None  # commit of the hub repository
    hubert_layer: Any = MISSING  # a number, or several, ascending: their features side by side
    adapter_hidden_dim: int | None = None  # None: the frozen encoder alone


@dataclass
class DiscriminatorConfig:
    periods: list[int] = MISSING
    scales: int = MISSING
    resolutions: list[int] = MISSING
    channels: int = MISSING
    max_channels: int = MISSING
    input_scale: float = MISSING


@dataclass
class VocoderModelConfig(EncoderConfig):
    sample_rate_hz: int = MISSING
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)


@dataclass
class CheckpointConfig:
    save_interval: int = MISSING
    resume_from: str | None = None
    keep_last_n: int = MISSING
    publish_last_n: int = MISSING
    save_wandb_metadata: bool = True
    on_config_change: str = "warn"  # or error


@dataclass
class WandbExamplesConfig:
    """Utterances to hear and see in W&B while training goes on; a checkpoint of before it was there has none."""

    count: int = 0
    seconds: float = 4.0
    times: int = 20


@dataclass
class WandbConfig:
    mode: str = MISSING  # offline, online or disabled
    project: str = MISSING
    entity: str | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    examples: WandbExamplesConfig = field(default_factory=WandbExamplesConfig)


@dataclass
class RuntimeConfig:
    device: str = MISSING  # auto, cpu, cuda or cuda:1
    deterministic: bool = MISSING
    threads: int | None = None
    launch: str = "python"  # what starts the script under DVC: a launcher with its options for several processes


@dataclass
class TrainingConfig:
    name: str = MISSING
    seed: int = MISSING
    steps: int = MISSING
    batch_size: int = MISSING
    precision: str = MISSING  # fp32 or bf16
    validation_batches: int = MISSING
    log_interval: int = MISSING
    validation_interval: int = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass
class AdapterLossConfig:
    l1: float = MISSING
    l2: float = MISSING
    spectral_convergence: float = MISSING


@dataclass
class AdapterConfig(TrainingConfig):
    model: EncoderConfig = field(default_factory=EncoderConfig)
    loss: AdapterLossConfig = field(default_factory=AdapterLossConfig)


@dataclass
class VocoderLossConfig:
    mel: float = MISSING
    feature_matching: float = MISSING
    adversarial: float = MISSING
    adversarial_from_step: int = MISSING


@dataclass
class InitFromConfig:
    adapter: str | None = None  # a published folder: its weights, nothing else
    vocoder: str | None = None


@dataclass
class VocoderConfig(TrainingConfig):
    hears: str = MISSING  # clean or degraded
    ema_decay: float | None = None
    model: VocoderModelConfig = field(default_factory=VocoderModelConfig)
    optim_discriminator: OptimConfig = field(default_factory=OptimConfig)
    loss: VocoderLossConfig = field(default_factory=VocoderLossConfig)
    init_from: InitFromConfig = field(default_factory=InitFromConfig)


@dataclass
class SslModelConfig:
    hidden_dim: int = MISSING
    layers: int = MISSING
    heads: int = MISSING
    intermediate_dim: int = MISSING
    kernel: int = MISSING
    mels: int = MISSING
    units: int = MISSING


@dataclass
class SslLossConfig:
    units: float = MISSING
    mel: float = MISSING
    masked_share: float = MISSING
    span_frames: int = MISSING


@dataclass
class SslConfig(TrainingConfig):
    export_to: str = MISSING  # the folder that gets the encoder, as transformers reads it
    model: SslModelConfig = field(default_factory=SslModelConfig)
    loss: SslLossConfig = field(default_factory=SslLossConfig)


@dataclass
class EvaluateConfig:
    seed: int = MISSING
    prepared: str = MISSING
    split: str = MISSING
    utterances: int = MISSING
    adapter: str = MISSING  # published folders
    pre_trained: str = MISSING
    fine_tuned: str = MISSING
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    systems: dict[str, str] = field(default_factory=dict)  # others: name -> a folder of what they restored
    metrics: list[str] = MISSING
    max_delay_seconds: float = MISSING
    bootstrap_resamples: int = MISSING
    confidence: float = MISSING
    gate: dict[str, float] = field(default_factory=dict)  # metric -> what a system may lose against degraded
    snr_bands_db: list[float] = MISSING
    report_examples: int = MISSING
    device: str = MISSING


TRAINING_STAGES: dict[str, type] = {
    "train_adapter": AdapterConfig,
    "pre_train_vocoder": VocoderConfig,
    "finetune_vocoder": VocoderConfig,
}
SCHEMAS: dict[str, type] = {
    **TRAINING_STAGES,
    "pretrain_ssl": SslConfig,
    "data": PrepareDataConfig,
    "evaluate": EvaluateConfig,
}
