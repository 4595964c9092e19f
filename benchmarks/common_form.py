"""The same updates in the form in which they are commonly written, to be compared with: see benchmarks/train_step.py.

Two full 12-layer copies of the encoder in fp32, each with a pass of its own through the front end, `hidden_states[L]`
taken from all 13; the discriminators heard twice, once for each player; AdamW as PyTorch makes it by default; losses
read after every update. The arithmetic is transformers', and our adapters, generator, discriminators and losses.
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

Player = tuple[list[nn.Parameter], torch.optim.Optimizer, float]


def common_form(config: Any, encoder: Path, device: torch.device) -> Any:
    """Return the common form of a stage."""
    return (
        CommonVocoder(config, encoder, device)
        if hasattr(config.model, "generator")
        else CommonAdapter(config, encoder, device)
    )


class CommonAdapter:
    """Stage 1: a teacher that hears clean speech, a student with adapters that hears degraded speech."""

    def __init__(self, config: Any, encoder: Path, device: torch.device) -> None:
        self.layer, self.device = config.model.hubert_layer, device
        self.teacher, self.student = full_encoder(encoder, device), full_encoder(encoder, device)
        self.player = player(add_adapters(self.student, config.model, device), config.optim)

    def update(self, batch: Batch, step: int) -> dict[str, float]:
        """Make one update."""
        with torch.no_grad():
            target = features(self.teacher, batch["clean"].to(self.device), self.layer)
        loss = feature_loss(features(self.student, batch["degraded"].to(self.device), self.layer), target)
        minimize(loss, self.player)
        return {"loss": loss.item()}


class CommonVocoder:
    """Stages 2 and 3: the discriminators step first, and both waves are heard again for the generator."""

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
        self.player_g = player(list(self.generator.parameters()), config.optim)
        self.player_d = player(list(self.discriminators.parameters()), config.optim_discriminator)

    def update(self, batch: Batch, step: int) -> dict[str, float]:
        """Make one update of each player."""
        with torch.no_grad():
            heard = features(self.encoder, batch[self.encoder_input].to(self.device), self.layer)
        starts, hop = batch["segment_start"].tolist(), self.generator.hop_samples
        segment = torch.stack([row[at : at + self.frames] for row, at in zip(heard, starts, strict=True)])
        wave = batch["target"].to(self.device)
        real = torch.stack([row[at * hop : (at + self.frames) * hop] for row, at in zip(wave, starts, strict=True)])
        fake, judge = self.generator(segment), self.discriminators
        loss_d = discriminator_loss(judge(real), judge(fake.detach()))
        minimize(loss_d, self.player_d)
        known, judged = judge(real), judge(fake)
        loss_g = self.weights["mel"] * self.mel(fake, real) + generator_adversarial_loss(judged)
        loss_g = loss_g + self.weights["feature_matching"] * feature_matching_loss(known, judged)
        minimize(loss_g, self.player_g)
        return {"loss_g": loss_g.item(), "loss_d": loss_d.item()}


def full_encoder(folder: Path, device: torch.device) -> Any:
    """Return all layers, frozen."""
    return HubertModel.from_pretrained(folder).to(device).requires_grad_(False).eval()


def add_adapters(encoder: Any, model: Any, device: torch.device) -> list[nn.Parameter]:
    """Put adapters beside the feed-forward blocks of the first layers, and return their parameters."""
    found: list[nn.Parameter] = []
    for layer in encoder.encoder.layers[: model.hubert_layer]:
        adapter = Adapter(encoder.config.hidden_size, model.adapter_hidden_dim).to(device)
        layer.feed_forward = AdaptedBlock(layer.feed_forward, adapter)
        layer.feed_forward.is_active = True
        found += adapter.parameters()
    return found


def features(encoder: Any, waves: Tensor, layer: int) -> Tensor:
    """Return the hidden states of one layer, from a pass through all."""
    return encoder(F.pad(waves, (40, 40)), output_hidden_states=True).hidden_states[layer]


def player(parameters: list[nn.Parameter], optim: Any) -> Player:
    """Return parameters, optimizer and the norm to clip to."""
    optimizer = torch.optim.AdamW(parameters, lr=optim.lr, betas=tuple(optim.betas), weight_decay=optim.weight_decay)
    return parameters, optimizer, optim.max_grad_norm


def minimize(loss: Tensor, player: Player) -> None:
    """Make one update."""
    parameters, optimizer, max_grad_norm = player
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, max_grad_norm)
    optimizer.step()
