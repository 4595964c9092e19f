"""Tiny encoders and vocoders, published as the stages do, and waves, for the tests of inference."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
import yaml
from safetensors.torch import save_file

from miipher2.inference.restorer import Restorer
from miipher2.models.encoder.from_pretrained import load_encoder
from miipher2.models.encoder.mini import build_mini_encoder
from miipher2.models.vocoder.registry import build_generator
from miipher2.rng import stream

DIM, LAYER, ADAPTER_DIM = 16, 2, 8
GENERATORS: dict[str, dict[str, object]] = {
    "hifigan": {"channels": 16, "kernels": [3], "dilations": [1]},
    "conformer_hifigan": {
        "channels": 16,
        "kernels": [3],
        "dilations": [1],
        "conformer_dim": 12,
        "conformer_hidden_dim": 20,
        "conformer_layers": 2,
        "conformer_heads": 3,
        "conformer_kernel": 5,
    },
    "vocos": {"channels": 16, "hidden_channels": 24, "blocks": 2, "window_frames": 4},
    "harmonic_vocos": {"channels": 16, "hidden_channels": 24, "blocks": 2},
    "dac": {"channels": 32, "dilations": [1, 3]},
}
UPSAMPLE = {16_000: [8, 5, 4, 2], 22_050: [7, 7, 3, 3], 24_000: [8, 5, 4, 3], 48_000: [10, 8, 6, 2]}
SHARED = {"hidden_size": DIM, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}


def save_hubert(folder: Path) -> None:
    """Save an encoder with a GroupNorm over the whole recording and normalised waves."""
    config = transformers.HubertConfig(
        **SHARED, conv_dim=[8] * 7, num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4
    )
    transformers.HubertModel(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)


def save_w2v_bert(folder: Path) -> None:
    """Save an encoder on log-mel, each band normalised over the whole recording."""
    config = transformers.Wav2Vec2BertConfig(**SHARED, feature_projection_input_dim=160, conv_depthwise_kernel_size=7)
    transformers.Wav2Vec2BertModel(config).save_pretrained(folder)


def save_wav2vec2(folder: Path) -> None:
    """Save an encoder with LayerNorm after each convolution and before each block, and normalised waves."""
    config = transformers.Wav2Vec2Config(
        **SHARED,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
    )
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)


def save_mini(folder: Path) -> None:
    """Save an encoder like the default: log-mel with fixed statistics, mirrored."""
    build_mini_encoder(
        hidden_dim=DIM,
        layers=3,
        heads=2,
        intermediate_dim=24,
        kernel=7,
        mels=40,
        mean=[10.0 + band / 8 for band in range(40)],
        std=4.0,
        mirror=True,
    ).save_pretrained(folder)


def save_wavlm(folder: Path) -> None:
    """Save an encoder whose attention bias depends on distance and content, on waves as they are."""
    config = transformers.WavLMConfig(
        **SHARED,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        num_buckets=32,
        max_bucket_distance=80,
    )
    transformers.WavLMModel(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=False).save_pretrained(folder)


ENCODERS = {
    "hubert": save_hubert,
    "mini": save_mini,
    "w2v_bert": save_w2v_bert,
    "wav2vec2": save_wav2vec2,
    "wavlm": save_wavlm,
}


def publish(folder: Path, model: dict[str, Any], tensors: dict[str, torch.Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"name": folder.parent.name, "steps": 20, "model": model}))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "final.safetensors")


def statistics(shift: float, dim: int) -> dict[str, torch.Tensor]:
    return {"normaliser.mean": torch.full((dim,), shift), "normaliser.std": torch.full((dim,), 2.0)}


def publish_all(
    root: Path,
    encoder_name: str,
    rate_hz: int = 16_000,
    absolute: bool = False,
    seed: int = 0,
    generator: str = "hifigan",
    layer: int | list[int] = LAYER,
) -> None:
    """Fill a repository with an encoder, and with what the adapter and the vocoder stages publish."""
    torch.manual_seed(seed)
    ENCODERS[encoder_name](root / "models" / encoder_name)
    name = str(root / "models" / encoder_name) if absolute else f"models/{encoder_name}"
    shared = {"hubert_model_name": name, "hubert_revision": None, "hubert_layer": layer}
    encoder = load_encoder(root / "models" / encoder_name, layer)
    encoder.add_adapters(ADAPTER_DIM)
    state = {f"adapters.{name}": torch.randn_like(value) for name, value in encoder.adapter_state_dict().items()}
    publish(root / "adapter", shared | {"adapter_hidden_dim": ADAPTER_DIM}, state | statistics(0.5, encoder.dim))
    numbers: dict[str, Any] = {"kind": generator, **GENERATORS[generator]}
    if generator in ("hifigan", "conformer_hifigan", "dac"):
        numbers["upsample_factors"] = UPSAMPLE[rate_hz]
    initial = build_generator(dim=encoder.dim, sample_rate_hz=rate_hz, **numbers).exported_state_dict()
    # Larger than their initial values and without biases, so that the output is worth comparing.
    state = {f"generator.{name}": 2.0 * value * ("bias" not in name) for name, value in initial.items()}
    if "vocos" in generator:  # else frames a few frames away would hardly matter
        state |= {name: 10 * value for name, value in state.items() if value.ndim > 1 and "last" not in name}
    if generator == "harmonic_vocos":  # as loud as speech, and a pitch that varies, voiced in turns
        state["generator.pitch_last.weight"] *= 10
        state["generator.pitch_last.bias"][-1] = 0.5
        state["generator.last.bias"].view(2, 3, -1)[:, :2] = -3.0  # gains, logarithms
    model = shared | {"sample_rate_hz": rate_hz, "generator": numbers, "adapter_hidden_dim": None}
    publish(root / "vocoder", model, state | statistics(0.1, encoder.dim))


def load(root: Path, **options: Any) -> Restorer:
    return Restorer.from_published("adapter", "vocoder", root=root, **options)


def wave(samples: int, name: str = "wave") -> np.ndarray:
    return (0.1 * stream(0, name).standard_normal(samples)).astype(np.float32)
