"""The same updates in the form in which they are commonly written, for comparison: see benchmarks/train_step.py.

Two full 12-layer copies of the encoder in fp32, each with its own pass through the front end, `hidden_states[L]` of all
13; the discriminators run twice, once per network; PyTorch's default AdamW; losses read after every update. The
arithmetic is that of transformers and of our adapters, generator, discriminators and losses.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import HubertModel

from miipher2.models.encoder.adapter import AdaptedBlock, Adapter
from miipher2.models.vocoder.discriminators import Discriminators
from miipher2.models.vocoder.registry import build_generator
from miipher2.training.losses import (
    MelDistance,
    discriminator_loss,
    feature_loss,
    feature_matching_loss,
    generator_adversarial_loss,
)
from miipher2.training.recipe import Batch

Network = tuple[list[nn.Parameter], torch.optim.Optimizer, float]


def common_form(config: Any, encoder: Path, device: torch.device) -> Any:
    """Return the common form of a stage."""
    return (
        CommonVocoder(config, encoder, device)
        if hasattr(config.model, "generator")
        else CommonAdapter(config, encoder, device)
    )


class CommonAdapter:
    """Stage 1: a teacher on clean speech, and a student with adapters on degraded speech."""

    def __init__(self, config: Any, encoder: Path, device: torch.device) -> None:
        self.layer, self.device = config.model.hubert_layer, device
        self.teacher, self.student = full_encoder(encoder, device), full_encoder(encoder, device)
        self.network = make_network(add_adapters(self.student, config.model, device), config.optim)

    def update(self, batch: Batch, step: int) -> dict[str, float]:
        """Run one update."""
        with torch.no_grad():
            target = features(self.teacher, batch["clean"].to(self.device), self.layer)
        loss = feature_loss(features(self.student, batch["degraded"].to(self.device), self.layer), target)
        minimize(loss, self.network)
        return {"loss": loss.item()}


class CommonVocoder:
    """Stages 2 and 3: the discriminators step first, then both waves pass through them again for the generator."""

    def __init__(self, config: Any, encoder: Path, device: torch.device) -> None:
        self.layer, self.device, self.encoder_input = config.model.hubert_layer, device, config.encoder_input
        self.weights, self.frames = dict(config.loss), config.data.segment_frames
        self.encoder = full_encoder(encoder, device)
        if config.encoder_input == "degraded":
            add_adapters(self.encoder, config.model, device)
        numbers = {"dim": self.encoder.config.hidden_size, "sample_rate_hz": config.model.sample_rate_hz}
        self.generator = build_generator(**numbers, **config.model.generator).to(device)
        self.discriminators = Discriminators(**config.model.discriminator).to(device)
        self.mel = MelDistance(config.model.sample_rate_hz).to(device)
        self.network_g = make_network(list(self.generator.parameters()), config.optim)
        self.network_d = make_network(list(self.discriminators.parameters()), config.optim_discriminator)

    def update(self, batch: Batch, step: int) -> dict[str, float]:
        """Run one update of each network."""
        with torch.no_grad():
            encoded = features(self.encoder, batch[self.encoder_input].to(self.device), self.layer)
        starts, hop = batch["segment_start"].tolist(), self.generator.hop_samples
        segment = torch.stack([row[start : start + self.frames] for row, start in zip(encoded, starts, strict=True)])
        wave = batch["target"].to(self.device)
        real = torch.stack(
            [row[start * hop : (start + self.frames) * hop] for row, start in zip(wave, starts, strict=True)]
        )
        fake, discriminate = self.generator(segment), self.discriminators
        loss_d = discriminator_loss(discriminate(real), discriminate(fake.detach()))
        minimize(loss_d, self.network_d)
        outputs_real, outputs_fake = discriminate(real), discriminate(fake)
        loss_g = self.weights["mel"] * self.mel(fake, real) + generator_adversarial_loss(outputs_fake)
        loss_g = loss_g + self.weights["feature_matching"] * feature_matching_loss(outputs_real, outputs_fake)
        minimize(loss_g, self.network_g)
        return {"loss_g": loss_g.item(), "loss_d": loss_d.item()}


def full_encoder(folder: Path, device: torch.device) -> Any:
    """Return all layers, frozen."""
    return HubertModel.from_pretrained(folder).to(device).requires_grad_(False).eval()


def add_adapters(encoder: Any, model: Any, device: torch.device) -> list[nn.Parameter]:
    """Add adapters to the feed-forward blocks of the first layers, and return their parameters."""
    parameters: list[nn.Parameter] = []
    for layer in encoder.encoder.layers[: model.hubert_layer]:
        adapter = Adapter(encoder.config.hidden_size, model.adapter_hidden_dim).to(device)
        layer.feed_forward = AdaptedBlock(layer.feed_forward, adapter)
        layer.feed_forward.strength = 1.0
        parameters += adapter.parameters()
    return parameters


def features(encoder: Any, waves: Tensor, layer: int) -> Tensor:
    """Return the hidden states of one layer from a pass through all."""
    return encoder(F.pad(waves, (40, 40)), output_hidden_states=True).hidden_states[layer]


def make_network(parameters: list[nn.Parameter], optim: Any) -> Network:
    """Return parameters, optimizer and the norm to clip to."""
    optimizer = torch.optim.AdamW(parameters, lr=optim.lr, betas=tuple(optim.betas), weight_decay=optim.weight_decay)
    return parameters, optimizer, optim.max_grad_norm


def minimize(loss: Tensor, network: Network) -> None:
    """Run one update."""
    parameters, optimizer, max_grad_norm = network
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()
