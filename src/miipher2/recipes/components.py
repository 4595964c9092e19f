"""What recipes are built from: encoder, optimizers, feature statistics."""

from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from miipher2.config.paths import folder_or_hub_name
from miipher2.config.schema import EncoderConfig, OptimConfig
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.feature_norm import FeatureNormaliser
from miipher2.models.encoder.from_pretrained import load_encoder
from miipher2.training import distributed
from miipher2.training.optimizer import FiniteCheck, NetworkOptimizer
from miipher2.training.recipe import Batch
from miipher2.training.schedule import learning_rate


def make_encoder(model: EncoderConfig, root: Path) -> SpeechEncoder:
    """Load the frozen encoder of a `model` section, with fresh adapters if it has any."""
    source = folder_or_hub_name(model.hubert_model_name, root)
    encoder = load_encoder(source, model.hubert_layer, revision=model.hubert_revision)
    if model.adapter_hidden_dim is not None:
        encoder.add_adapters(model.adapter_hidden_dim)
    return encoder


def make_optimizer(
    name: str, parameters: Iterable[tuple[str, nn.Parameter]], optim: OptimConfig, finite: FiniteCheck | None = None
) -> NetworkOptimizer:
    """Return the optimizer of an `optim` section; the networks of one recipe share `finite`."""
    return NetworkOptimizer(
        name,
        parameters,
        partial(learning_rate, lr=optim.lr, **asdict(optim.scheduler)),
        weight_decay=optim.weight_decay,
        betas=(optim.betas[0], optim.betas[1]),
        max_grad_norm=optim.max_grad_norm,
        finite=finite,
    )


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def named(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    """Return a module's state with `prefix` before every name."""
    return {f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}


def check_names(found: Iterable[str], expected: Iterable[str]) -> None:
    """Check that a state has exactly the expected tensors.

    Raises:
        ValueError: names the first that is missing or unexpected.
    """
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing:
        raise ValueError(f"{len(missing)} tensors are missing, such as {missing[0]}")
    if extra:
        raise ValueError(f"{len(extra)} tensors are unexpected, such as {extra[0]}")


def fit_normaliser(
    normaliser: FeatureNormaliser, encoder: SpeechEncoder, batches: Iterable[Batch], device: torch.device, bf16: bool
) -> None:
    """Fit the statistics of clean features on some batches, at the precision of training.

    Rank 0 does it for all: the batches are whole ones, and another kind of device would round otherwise.
    """
    for batch in batches if distributed.rank() == 0 else ():
        frames = batch["valid_frames"]
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            features = encoder(batch["clean"].to(device), frames, adapted=False).float()
        normaliser.update(features, (torch.arange(features.shape[1]) < frames[:, None]).to(device))
    distributed.broadcast(list(normaliser.buffers()))
