"""Stages 2 and 3: a vocoder trained against discriminators. They differ in encoder input and starting weights."""

import logging
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from miipher2.audio.spectrogram import MELS
from miipher2.config.schema import VocoderConfig, VocoderLossConfig
from miipher2.config.schema_data import FRAMES_PER_SECOND
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.feature_norm import FeatureNormaliser
from miipher2.models.pretrained import PretrainedWeights
from miipher2.models.vocoder.discriminators import Discriminators
from miipher2.models.vocoder.generator import FitExample, Generator
from miipher2.models.vocoder.registry import build_generator
from miipher2.recipes.components import (
    check_names,
    fit_normaliser,
    make_encoder,
    make_optimizer,
    named,
    under,
)
from miipher2.recipes.init_from import fitting, start_adapters
from miipher2.training import distributed
from miipher2.training.ema import ExponentialMovingAverage
from miipher2.training.losses import (
    MelDistance,
    discriminator_loss,
    feature_matching_loss,
    generator_adversarial_loss,
)
from miipher2.training.optimizer import FiniteCheck, NetworkOptimizer
from miipher2.training.recipe import Batch, Metrics

log = logging.getLogger(__name__)


class VocoderRecipe:
    """Trains a generator from encoder features to a waveform, and discriminators against it.

    Args:
        encoder: frozen, with its adapters where its input is degraded speech.
        optimizers: of the generator and of the discriminators.
        encoder_input: `clean` or `degraded`: which side of an example goes through the encoder.
        loss_weights: the `loss` section of the configuration.
        segment_frames: what the generator makes of a crop; the encoder gets the whole crop.
        init_digests: sha256 of the weights that the stage started from: `adapter`, `vocoder`, and `discriminators`
            where those came from elsewhere.
        ema_decay: of a moving average of the generator, which is then what is exported; None for none.

    Source: Kong et al. 2020, HiFi-GAN (arXiv:2010.05646), sections 2.2-2.4.
    """

    metric_names = (
        "generator/loss",
        "generator/mel",
        "generator/adversarial",
        "generator/feature_matching",
        "generator/grad_norm",
        "discriminator/loss",
        "discriminator/grad_norm",
        "valid/mel",
    )

    def __init__(
        self,
        encoder: SpeechEncoder,
        normaliser: FeatureNormaliser,
        generator: Generator,
        discriminators: Discriminators,
        optimizers: tuple[NetworkOptimizer, NetworkOptimizer],
        *,
        encoder_input: str,
        loss_weights: VocoderLossConfig,
        segment_frames: int,
        precision: str,
        ema_decay: float | None,
        init_digests: dict[str, str],
    ) -> None:
        self.upstream_digests = {"encoder": encoder.digest, **init_digests}
        self.encoder, self.normaliser = encoder, normaliser
        self.generator, self.discriminators = generator, discriminators
        self.generator_optimizer, self.discriminator_optimizer = optimizers
        self.encoder_input, self.loss_weights, self.segment_frames = encoder_input, loss_weights, segment_frames
        assert precision != "auto"
        self.bf16 = precision == "bf16"
        if self.bf16:
            encoder.cast_frozen_weights(torch.bfloat16)
        self.device = next(generator.parameters()).device
        rate_hz = generator.sample_rate_hz
        self.mel_distance = MelDistance(rate_hz).to(self.device)
        windows = loss_weights.mel_windows
        self.mel_distances = (
            [self.mel_distance]
            if windows is None
            else [MelDistance(rate_hz, window, min(MELS, window // 4)).to(self.device) for window in windows]
        )
        self.ema = None if ema_decay is None else ExponentialMovingAverage(generator, ema_decay)

    @classmethod
    def from_config(cls, config: VocoderConfig, device: torch.device, root: Path) -> "VocoderRecipe":
        """Build the recipe that a stage's configuration describes, with the weights that `init_from` names."""
        model = config.model
        encoder = make_encoder(model, root)
        normaliser = FeatureNormaliser(encoder.dim)
        generator = build_generator(dim=encoder.dim, sample_rate_hz=model.sample_rate_hz, **asdict(model.generator))
        discriminators = Discriminators(**asdict(model.discriminator))
        init_digests = start_adapters(config, encoder, root)
        init_digests |= start_vocoder(config, encoder.digest, root, normaliser, generator, discriminators)
        for module in (encoder, normaliser, generator, discriminators):
            module.to(device)
        encoder.requires_grad_(False)
        finite = FiniteCheck(device)
        assert config.data.segment_frames is not None
        return cls(
            encoder,
            normaliser,
            generator,
            discriminators,
            (
                make_optimizer("generator", generator.named_parameters(), config.optim, finite),
                make_optimizer("discriminators", discriminators.named_parameters(), config.optim_discriminator, finite),
            ),
            encoder_input=config.encoder_input,
            loss_weights=config.loss,
            segment_frames=config.data.segment_frames,
            precision=config.precision,
            ema_decay=config.ema_decay,
            init_digests=init_digests,
        )

    def initialise(self, batches: Iterable[Batch]) -> None:
        """Fit the statistics of clean features and the generator, unless they came with the weights it starts from.

        Rank 0 does it for all, as in `fit_normaliser`.
        """
        if "vocoder" in self.upstream_digests:
            return
        batches = list(batches) if distributed.rank() == 0 else []  # they are read twice, and made when read
        fit_normaliser(self.normaliser, self.encoder, batches, self.device, self.bf16)
        if batches:
            self.generator.fit(self._fit_example(batch) for batch in batches)
        distributed.broadcast(list(self.generator.parameters()))
        if self.ema is not None:
            self.ema.module.load_state_dict(self.generator.state_dict())

    def update(self, batch: Batch, step: int) -> Metrics:
        """Make one update of the discriminators and one of the generator.

        The discriminators see real and generated speech once, for their own loss and for the generator's, and neither
        network changes before both gradients are computed.
        """
        features, real = self._segment(batch)
        weights = self.loss_weights
        adversarial = step >= weights.adversarial_from_step
        metrics: Metrics = {}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            first = batch["utterance"] + batch["segment_start"]
            first = first.to(self.device, non_blocking=True)
            fake, own_loss = self.generator.training_forward(features, real, first, weights.pitch == "predicted")
            fake = fake.float()
            if adversarial:
                real_views, fake_views = self.discriminators(real), self.discriminators(fake)
        mel = torch.stack([distance(fake, real) for distance in self.mel_distances]).mean()
        loss_g = weights.mel * mel if own_loss is None else weights.mel * mel + own_loss
        if adversarial:
            fooling = generator_adversarial_loss(fake_views)
            matching = feature_matching_loss(real_views, fake_views)
            loss_g = loss_g + weights.adversarial * fooling + weights.feature_matching * matching
            metrics["generator/adversarial"] = fooling.detach()
            metrics["generator/feature_matching"] = matching.detach()
        metrics["generator/grad_norm"] = self.generator_optimizer.backward(loss_g, step, retain_graph=adversarial)
        if adversarial:
            loss_d = discriminator_loss(real_views, fake_views)
            metrics["discriminator/grad_norm"] = self.discriminator_optimizer.backward(loss_d, step)
            metrics["discriminator/loss"] = loss_d.detach()
            self.discriminator_optimizer.step(step)
        self.generator_optimizer.step(step)
        if self.ema is not None:
            self.ema.update(self.generator, self.generator_optimizer.finite.found_inf)
        return {**metrics, "generator/loss": loss_g.detach(), "generator/mel": mel.detach()}

    @torch.no_grad()
    def validate(self, batch: Batch) -> Metrics:
        """Return the log-mel distance over whole crops, with the weights that would be exported."""
        features = self._features(batch)
        fake = self._exported_generator()(features).float()
        return {"valid/mel": self.mel_distance(fake, batch["target"].to(self.device))}

    @torch.no_grad()
    def samples(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the generated waveform: `restored` from degraded speech, `generated` from clean speech."""
        wave = self._exported_generator()(self._features(batch)).float()
        return {"restored" if self.encoder_input == "degraded" else "generated": wave}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return generator, discriminators, feature statistics, both optimizers and the EMA."""
        optimizers = (self.generator_optimizer, self.discriminator_optimizer)
        return {
            "model": {
                name: tensor
                for prefix, module in self._modules().items()
                for name, tensor in named(prefix, module).items()
            },
            "optimizers": {each.name: each.optimizer_state() for each in optimizers},
            "schedules": {each.name: each.schedule_state() for each in optimizers},
            "ema": {} if self.ema is None else dict(self.ema.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load such a state, strictly."""
        model = state["model"]
        check_names(model, [name for prefix, module in self._modules().items() for name in named(prefix, module)])
        for prefix, module in self._modules().items():
            module.load_state_dict(under(prefix, model))
        if self.ema is not None:
            self.ema.load(state["ema"], state["schedules"][self.generator_optimizer.name]["updates"])
        for each in (self.generator_optimizer, self.discriminator_optimizer):
            each.load(state["optimizers"][each.name], state["schedules"][each.name])

    def export(self) -> dict[str, dict[str, Tensor]]:
        """Return what inference needs and, as a file of their own, the discriminators to fine-tune against."""
        generator = self._exported_generator().exported_state_dict()
        folded = {f"generator.{name}": value for name, value in generator.items()}
        return {
            "final": folded | named("normaliser.", self.normaliser),
            "discriminators": dict(self.discriminators.state_dict()),
        }

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {"generator.": self.generator, "discriminators.": self.discriminators, "normaliser.": self.normaliser}

    def _exported_generator(self) -> Generator:
        if self.ema is None:
            return self.generator
        assert isinstance(self.ema.module, Generator)
        return self.ema.module

    def _features(self, batch: Batch) -> Float[Tensor, "batch frame dim"]:
        waves = batch[self.encoder_input].to(self.device, non_blocking=True)
        is_adapted = self.encoder_input == "degraded"
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.encoder(waves, batch["valid_frames"], adapted=is_adapted).float()
        return self.normaliser(features)

    def _fit_example(self, batch: Batch) -> FitExample:
        features = self._features(batch)
        valid = torch.arange(features.shape[1]) < batch["valid_frames"][:, None]
        return FitExample(features, batch["target"].to(self.device), valid.to(self.device))

    def _segment(self, batch: Batch) -> tuple[Float[Tensor, "batch segment dim"], Float[Tensor, "batch time"]]:
        """Return the features and the real waveform of each example's segment."""
        features = self._features(batch)
        starts = batch["segment_start"].to(self.device, non_blocking=True)
        frames = starts[:, None] + torch.arange(self.segment_frames, device=self.device)
        hop = self.generator.sample_rate_hz // FRAMES_PER_SECOND
        times = starts[:, None] * hop + torch.arange(self.segment_frames * hop, device=self.device)
        wave = batch["target"].to(self.device, non_blocking=True)
        segment = features.gather(1, frames[:, :, None].expand(-1, -1, features.shape[2]))
        return segment, wave.gather(1, times)


def start_vocoder(
    config: VocoderConfig,
    encoder_sha256: str,
    root: Path,
    normaliser: FeatureNormaliser,
    generator: Generator,
    discriminators: Discriminators,
) -> dict[str, str]:
    """Load the vocoder and the discriminators that `init_from` names, if any; return their sha256 by name.

    Discriminators that are not there start fresh, which the log says.

    Raises:
        FileNotFoundError: there is no such folder or file; says how to make it.
        ValueError: a file is damaged, or was trained for another encoder, layer, sample rate or network.
    """
    init_from, model = config.init_from, config.model
    digests: dict[str, str] = {}
    weights = None  # that have the discriminators
    if init_from.vocoder is not None:
        weights = PretrainedWeights("init_from.vocoder", init_from.vocoder, root)
        weights.check_encoder(model, encoder_sha256)
        weights.check(sample_rate_hz=model.sample_rate_hz, generator=asdict(model.generator))
        (tensors, statistics), digests["vocoder"] = weights.read("generator", "vocoder_normaliser")
        with fitting(weights, "the generator"):
            generator.load_exported_state_dict(tensors)
            normaliser.load_state_dict(statistics)
    if init_from.discriminators is not None:
        weights = PretrainedWeights("init_from.discriminators", init_from.discriminators, root)
        weights.check(sample_rate_hz=model.sample_rate_hz)
    elif weights is not None and not weights.has("discriminators"):
        log.info("%s has no discriminators: they start fresh", weights.label)
        weights = None
    if weights is not None:
        (tensors,), digest = weights.read("discriminators")
        with fitting(weights, f"model.discriminator={asdict(model.discriminator)}"):
            discriminators.load_state_dict(tensors)
        if init_from.discriminators is not None:
            digests["discriminators"] = digest
    return digests
