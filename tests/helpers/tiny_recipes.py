"""Recipes small enough for tests, their batch, and their state laid flat."""

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from miipher2.config.load import load_config
from miipher2.config.params import compose_config
from miipher2.config.paths import ROOT
from miipher2.config.schema import SCHEMAS
from miipher2.recipes.adapter import AdapterRecipe
from miipher2.recipes.vocoder import VocoderRecipe
from miipher2.training.optimizer import NetworkOptimizer
from miipher2.training.recipe import Batch

CPU = torch.device("cpu")
FRAMES = 20
HIFIGAN = ("model.generator.channels=16", "model.generator.kernels=[3]", "model.generator.dilations=[1]")
VOCOS = (
    "generator@model.generator=vocos_24k",
    "model.generator.channels=16",
    "model.generator.hidden_channels=24",
    "model.generator.blocks=2",
)
HARMONIC = (
    "generator@model.generator=harmonic_mini",
    "model.generator.channels=16",
    "model.generator.hidden_channels=24",
    "model.generator.blocks=2",
    "model.generator.envelope_mels=12",
)


def tiny(stage: str, name: str, encoder: Path, *more: str) -> Any:
    """Return a mini configuration made tiny; a vocoder's generator is HiFi-GAN's, unless `more` names another."""
    overrides = [f"model.hubert_model_name={encoder}", "model.hubert_layer=2", "data.crop_seconds=0.4"]
    if stage == "train_adapter":
        overrides += ["model.adapter_hidden_dim=4"]
    else:
        overrides += ["data.segment_frames=12", "model.discriminator.max_channels=8"]
        overrides += [] if any(word.startswith("generator@") for word in more) else HIFIGAN
    return load_config(compose_config(name, [*overrides, *more], group=stage), stage, SCHEMAS[stage])


def batch(seed: int = 0) -> Batch:
    """Return a batch of two noisy tones; the second is shorter than the crop."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(FRAMES * 320) / 16_000
    clean = 0.3 * torch.sin(2 * torch.pi * torch.tensor([[220.0], [330.0]]) * time)
    clean[1, 15 * 320 :] = 0
    return {
        "clean": clean,
        "degraded": clean + 0.05 * torch.randn(clean.shape, generator=generator),
        "target": clean.clone(),
        "valid_frames": torch.tensor([FRAMES, 15]),
        "segment_start": torch.tensor([3, 2]),
        "utterance": torch.tensor([0, 1]),
    }


def adapter(encoder: Path, *more: str, device: torch.device = CPU) -> AdapterRecipe:
    """Return stage 1."""
    torch.manual_seed(1)
    return AdapterRecipe.from_config(tiny("train_adapter", "adapter_mini", encoder, *more), device, ROOT)


def vocoder(encoder: Path, *more: str, device: torch.device = CPU) -> VocoderRecipe:
    """Return stage 2, adversarial from its third step on."""
    torch.manual_seed(1)
    config = tiny("pre_train_vocoder", "hifigan_pretrain_mini", encoder, "loss.adversarial_from_step=2", *more)
    return VocoderRecipe.from_config(config, device, ROOT)


DAC = (
    "generator@model.generator=dac_48k",
    "model.sample_rate_hz=16000",
    "model.generator.channels=32",
    "model.generator.upsample_factors=[8,5,4,2]",
    "model.generator.dilations=[1,3]",
)
CONFORMER = (
    "generator@model.generator=conformer_hifigan_22k",
    "model.sample_rate_hz=16000",
    "model.generator.upsample_factors=[8,5,4,2]",
    "model.generator.conformer_dim=12",
    "model.generator.conformer_heads=3",
    "model.generator.conformer_hidden_dim=20",
    *HIFIGAN,
)
# Every form in which a recipe's update differs, by name.
RECIPES: dict[str, Any] = {
    "adapter": adapter,
    "hifigan": lambda folder, *more, **device: vocoder(folder, "ema_decay=0.9", *more, **device),
    "vocos": lambda folder, *more, **device: vocoder(folder, *VOCOS, "ema_decay=0.9", *more, **device),
    "harmonic": lambda folder, *more, **device: vocoder(folder, *HARMONIC, "ema_decay=0.9", *more, **device),
    "conformer": lambda folder, *more, **device: vocoder(folder, *CONFORMER, *more, **device),
    "dac": lambda folder, *more, **device: vocoder(folder, *DAC, *more, **device),
    "resolutions": lambda folder, *more, **device: vocoder(
        folder, "model.discriminator.resolutions=[128,256]", "model.discriminator.scales=2", *more, **device
    ),
}


def optimizers_of(recipe: Any) -> list[NetworkOptimizer]:
    """Return the optimizers of a recipe's networks."""
    names = ("optimizer", "generator_optimizer", "discriminator_optimizer")
    return [getattr(recipe, name) for name in names if hasattr(recipe, name)]


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return copies."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Return the names whose tensors differ in any bit."""
    return {name for name in before if not torch.equal(before[name].cpu(), after[name].cpu())}


def flat(state: Any, prefix: str = "") -> dict[str, Tensor]:
    """Return all tensors in a nested state by their path."""
    if isinstance(state, dict):
        return {name: tensor for key, value in state.items() for name, tensor in flat(value, f"{prefix}{key}/").items()}
    return {prefix: torch.as_tensor(state)}


def read_back(state: dict[str, Any]) -> Any:
    """Return a state as it comes from a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True, map_location="cpu")
