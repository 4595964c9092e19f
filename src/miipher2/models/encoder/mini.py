"""The embedded default's own encoder: a small w2v-BERT 2.0, without pretrained weights."""

from collections.abc import Sequence
from typing import Any

from miipher2.models.encoder.logmel_frontend import LogMelFrontEnd
from miipher2.models.encoder.transformers_models import MODELS


def build_mini_encoder(
    *,
    hidden_dim: int,
    layers: int,
    heads: int,
    intermediate_dim: int,
    kernel: int,
    mels: int,
    mean: float | Sequence[float],
    std: float | Sequence[float],
    mirror: bool,
    constants: int = 0,
) -> Any:
    """Return an untrained Wav2Vec2BertModel, drawn from the global generator, whose config describes its front end.

    `save_pretrained` writes a folder that `load_encoder` reads. The encoder has no dropout, layerdrop, masking or mask
    embedding: pre-training masks the front end's frames itself.

    Args:
        kernel: width of the conformer's causal convolution, in frames; odd.
        mean, std: of the training speech's log-mel (`LogMelFrontEnd.log_mel`): one number, or one per band.
        mirror, constants: as in `LogMelFrontEnd`.
    """
    front_end: dict[str, Any] = {
        "mels": mels,
        "normalise": "fixed",
        "mean": _to_json(mean),
        "std": _to_json(std),
        "mirror": mirror,
        "constants": constants,
    }
    model_class = MODELS["wav2vec2-bert"]
    config = model_class.config_class(
        hidden_size=hidden_dim,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate_dim,
        conv_depthwise_kernel_size=kernel,
        feature_projection_input_dim=LogMelFrontEnd(**front_end).dim,
        layerdrop=0.0,
        conformer_conv_dropout=0.0,
        final_dropout=0.0,
        apply_spec_augment=False,
        mask_time_prob=0.0,
        miipher2_front_end=front_end,
    )
    return model_class(config)


def _to_json(value: float | Sequence[float]) -> float | list[float]:
    return float(value) if isinstance(value, int | float) else [float(number) for number in value]
