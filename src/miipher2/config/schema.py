"""Schema of the configuration: one dataclass per stage. A key that is not here stops a run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from omegaconf import MISSING

from miipher2.config.fields import (
    Section,
    all_at_least,
    all_positive,
    any_seed,
    at_least,
    file_or_none,
    non_empty,
    on_device,
    one_of,
    positive,
    run_name,
    share,
    whole_frames,
)
from miipher2.config.schema_data import (
    FRAMES_PER_SECOND,
    PRECISIONS,
    SAMPLE_RATE_HZ,
    DataConfig,
    DegradationConfig,
    LoaderConfig,
    PrepareDataConfig,
)


@dataclass
class SchedulerConfig(Section):
    name: str = one_of("constant", "cosine", "exponential")
    warmup_steps: int = at_least(0, 0)
    decay_steps: int = at_least(0, 0)  # cosine: the step at which the learning rate reaches its end
    final_ratio: float = share(0.0)  # cosine: learning rate at the end, as a share of optim.lr
    decay_per_step: float = positive(1.0)  # exponential

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name == "cosine" and self.decay_steps <= self.warmup_steps:
            self.reject("decay_steps", f"should be greater than warmup_steps={self.warmup_steps}")


@dataclass
class OptimConfig(Section):
    lr: float = positive()
    weight_decay: float = at_least(0)
    betas: list[float] = MISSING
    max_grad_norm: float = positive(may_be_infinite=True)  # infinite: no clipping
    scheduler: SchedulerConfig = field(default_factory=SchedulerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.betas != MISSING and not (len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)):
            self.reject("betas", "should be two numbers from 0 to below 1")


def as_layers(layer: Any) -> tuple[int, ...]:
    """Return the encoder layers that `hubert_layer` names.

    Raises:
        ValueError: it is neither a number from 1 nor such numbers, ascending.
    """
    layers = tuple(layer) if isinstance(layer, Sequence) else (layer,)
    are_numbers = all(type(number) is int and number >= 1 for number in layers)
    if not layers or not are_numbers or any(after <= before for before, after in pairwise(layers)):
        raise ValueError(f"layer {layer!r}: should be a number from 1, or several, ascending")
    return layers


@dataclass
class EncoderConfig(Section):
    hubert_model_name: str = non_empty()  # a hub name, or a local folder as transformers writes it
    hubert_revision: str | None = None  # commit of the hub repository
    hubert_layer: Any = MISSING  # a number, or several, ascending: their features side by side
    adapter_hidden_dim: int | None = positive(None)  # None: the frozen encoder alone

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hubert_layer != MISSING:
            try:
                as_layers(self.hubert_layer)
            except ValueError as error:
                self.reject("hubert_layer", str(error))


@dataclass
class GeneratorConfig(Section):
    kind: str = MISSING  # a key of GENERATORS; the other keys are those of its class below


@dataclass
class HifiGanConfig(GeneratorConfig):
    kind: str = "hifigan"
    channels: int = positive()
    upsample_factors: list[int] = all_positive()
    kernels: list[int] = all_positive()
    dilations: list[int] = all_positive()


@dataclass
class ConformerHifiGanConfig(HifiGanConfig):
    kind: str = "conformer_hifigan"
    conformer_dim: int = positive()
    conformer_hidden_dim: int = positive()
    conformer_layers: int = positive()
    conformer_heads: int = positive()
    conformer_kernel: int = positive()


@dataclass
class VocosConfig(GeneratorConfig):
    kind: str = "vocos"
    channels: int = positive()
    hidden_channels: int = positive()
    blocks: int = positive()
    window_frames: int = positive()


@dataclass
class HarmonicVocosConfig(GeneratorConfig):
    kind: str = "harmonic_vocos"
    channels: int = positive()
    hidden_channels: int = positive()
    blocks: int = positive()
    envelope_mels: int | None = positive(None)  # null: the blocks make the whole of the filters


@dataclass
class DacConfig(GeneratorConfig):
    kind: str = "dac"
    channels: int = positive()
    upsample_factors: list[int] = all_positive()
    dilations: list[int] = all_positive()


GENERATORS: dict[str, type[GeneratorConfig]] = {
    "hifigan": HifiGanConfig,
    "conformer_hifigan": ConformerHifiGanConfig,
    "vocos": VocosConfig,
    "harmonic_vocos": HarmonicVocosConfig,
    "dac": DacConfig,
}


@dataclass
class DiscriminatorConfig(Section):
    periods: list[int] = MISSING
    scales: int = at_least(0)
    resolutions: list[int] = MISSING
    channels: int = positive()
    max_channels: int = positive()
    input_scale: float = positive()


@dataclass
class VocoderModelConfig(EncoderConfig):
    sample_rate_hz: int = positive()
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample_rate_hz != MISSING and self.sample_rate_hz % FRAMES_PER_SECOND:
            self.reject("sample_rate_hz", "should be a multiple of 50, since features have 50 frames a second")


@dataclass
class CheckpointConfig(Section):
    save_interval: int = positive()
    resume_from: Any = file_or_none("a checkpoint")
    keep_last_n: int = positive()
    publish_last_n: int = positive()
    save_wandb_metadata: bool = True
    on_config_change: str = one_of("warn", "error", default="warn")
    allow_other_devices: bool = False


@dataclass
class WandbExamplesConfig(Section):
    """Utterances to log to W&B as audio and pictures during training."""

    count: int = at_least(0, 0)
    seconds: float = whole_frames(4.0)
    times: int = positive(20)


@dataclass
class WandbConfig(Section):
    mode: str = one_of("offline", "online", "disabled")
    project: str = MISSING
    entity: str | None = None
    name: str | None = None
    tags: list[str] = field(default_factory=list)
    notes: str | None = None
    examples: WandbExamplesConfig = field(default_factory=WandbExamplesConfig)


@dataclass
class RuntimeConfig(Section):
    device: str = on_device("auto")
    deterministic: bool = MISSING
    threads: int | None = positive(None)
    launch: str = non_empty(
        "python"
    )  # what starts the script under DVC: a launcher with its options for several processes


@dataclass
class TrainingConfig(Section):
    name: str = run_name()
    seed: int = any_seed()
    steps: int = positive()
    batch_size: int = positive()
    precision: str = one_of(*PRECISIONS)
    validation_batches: int = positive()
    log_interval: int = positive()
    validation_interval: int = positive()
    data: DataConfig = field(default_factory=DataConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    @property
    def target_rate_hz(self) -> int:
        """Sample rate of an example's target: the encoder's, unless the stage generates waveforms."""
        return SAMPLE_RATE_HZ

    @property
    def uses_degraded(self) -> bool:
        """Whether the stage reads the degraded side of an example."""
        return True


@dataclass
class AdapterLossConfig(Section):
    l1: float = at_least(0)
    l2: float = at_least(0)
    spectral_convergence: float = at_least(0)


@dataclass
class AdapterInitConfig(Section):
    """Weights to start from: what a stage published, a bundle, or `owner/name[@revision]` on the Hugging Face hub."""

    adapter: str | None = non_empty(None)


@dataclass
class AdapterConfig(TrainingConfig):
    model: EncoderConfig = field(default_factory=EncoderConfig)
    loss: AdapterLossConfig = field(default_factory=AdapterLossConfig)
    init_from: AdapterInitConfig = field(default_factory=AdapterInitConfig)


@dataclass
class VocoderLossConfig(Section):
    mel: float = at_least(0)
    feature_matching: float = at_least(0)
    adversarial: float = at_least(0)
    adversarial_from_step: int = at_least(0)  # before it only the generator trains, on the mel distance alone
    mel_windows: list[int] | None = all_at_least(32, None)  # in samples; null: one of 40 ms or more, as in HiFi-GAN
    pitch: str | None = one_of("target", "predicted", default=None)  # of a harmonic generator; null: the target's


@dataclass
class VocoderInitConfig(AdapterInitConfig):
    vocoder: str | None = non_empty(None)
    discriminators: str | None = non_empty(None)  # null: those beside the vocoder; fresh ones where there are none


@dataclass
class VocoderConfig(TrainingConfig):
    encoder_input: str = one_of("clean", "degraded")
    ema_decay: float | None = share(None)
    model: VocoderModelConfig = field(default_factory=VocoderModelConfig)
    optim_discriminator: OptimConfig = field(default_factory=OptimConfig)
    loss: VocoderLossConfig = field(default_factory=VocoderLossConfig)
    init_from: VocoderInitConfig = field(default_factory=VocoderInitConfig)

    @property
    def target_rate_hz(self) -> int:
        """Sample rate of the generated waveform."""
        return self.model.sample_rate_hz

    @property
    def uses_degraded(self) -> bool:
        """Whether the encoder gets the degraded side of an example."""
        return self.encoder_input == "degraded"


@dataclass
class MaskedPredictionModelConfig(Section):
    hidden_dim: int = positive()
    layers: int = positive()
    heads: int = positive()
    intermediate_dim: int = positive()
    kernel: int = positive()
    mels: int = positive()
    constants: int = at_least(0)  # of the front end
    units: int = positive()


@dataclass
class MaskedPredictionLossConfig(Section):
    units: float = at_least(0)
    mel: float = at_least(0)
    masked_share: float = share()
    span_frames: int = positive()


@dataclass
class MaskedPredictionConfig(TrainingConfig):
    export_to: str = MISSING  # the folder that gets the encoder, in transformers' format
    model: MaskedPredictionModelConfig = field(default_factory=MaskedPredictionModelConfig)
    loss: MaskedPredictionLossConfig = field(default_factory=MaskedPredictionLossConfig)


@dataclass
class AsrConfig(Section):
    model: str | None = non_empty(None)  # whisper-base, a folder or a name on the hub; null: pocketsphinx
    compute_type: str = one_of("float32", "int8", default="float32")


@dataclass
class EvaluateConfig(Section):
    seed: int = any_seed()
    prepared: str = MISSING
    split: str = one_of("train", "valid", "test")
    utterances: int = positive()
    adapter: str = MISSING  # published folders
    pre_trained: str = MISSING
    fine_tuned: str = MISSING
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    systems: dict[str, str] = field(default_factory=dict)  # others: name -> a folder of what they restored
    metrics: list[str] = MISSING
    asr: AsrConfig = field(default_factory=AsrConfig)
    max_delay_seconds: float = at_least(0)
    bootstrap_resamples: int = positive()
    confidence: float = share()
    gate: dict[str, float] = field(default_factory=dict)  # metric -> what a system may lose against degraded
    snr_bands_db: list[float] = MISSING
    report_examples: int = at_least(0)
    device: str = on_device("auto")


@dataclass(frozen=True)
class Stage:
    """A training stage: its schema, the class of its recipe, and the validation metric whose minimum is remembered.

    The recipe is named and not imported: DVC reads this file, and the adapter must not depend on the vocoder.
    """

    schema: type[TrainingConfig]
    recipe: str
    best_metric: str
    is_in_pipeline: bool = True


STAGES: dict[str, Stage] = {
    "train_adapter": Stage(AdapterConfig, "miipher2.recipes.adapter:AdapterRecipe", "valid/loss"),
    "pre_train_vocoder": Stage(VocoderConfig, "miipher2.recipes.vocoder:VocoderRecipe", "valid/mel"),
    "finetune_vocoder": Stage(VocoderConfig, "miipher2.recipes.vocoder:VocoderRecipe", "valid/mel"),
    "pretrain_ssl": Stage(
        MaskedPredictionConfig, "miipher2.recipes.masked_prediction:MaskedPredictionRecipe", "valid/loss", False
    ),
}
TRAINING_STAGES = tuple(name for name, stage in STAGES.items() if stage.is_in_pipeline)
SCHEMAS: dict[str, type[Section]] = {
    **{name: stage.schema for name, stage in STAGES.items()},
    "data": PrepareDataConfig,
    "evaluate": EvaluateConfig,
}
