"""Stages 2 and 3: a vocoder against discriminators; they differ in what it hears and in the weights it starts from."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from miipher2.losses import MelDistance, discriminator_loss, feature_matching_loss, generator_adversarial_loss
from miipher2.models.discriminators import Discriminators
from miipher2.models.generator import Generator
from miipher2.models.generators import new_generator
from miipher2.models.normaliser import FeatureNormaliser
from miipher2.models.ssl import SpeechEncoder
from miipher2.recipes.parts import (
    check_names,
    fit_normaliser,
    make_encoder,
    make_updater,
    named,
    read_weights,
    under,
)
from miipher2.training.average import MovingAverage
from miipher2.training.finite import Finiteness
from miipher2.training.recipe import Batch, Metrics, Presented
from miipher2.training.updater import Updater


class VocoderRecipe:
    """Trains a generator from SSL features to a waveform, and discriminators against it.

    Args:
        encoder: frozen, with its adapters where the vocoder hears degraded speech.
        hears: `clean` or `degraded`: which side of an example goes through the encoder.
        loss_weights: `mel`, `feature_matching`, `adversarial`, and `adversarial_from_step`, before which only the
            generator moves and only by the mel distance.
        segment_frames: what the generator makes of a crop; the encoder hears all of the crop.
        started_from: digests of the weights that the stage started from: `adapter`, `vocoder`.
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
        updaters: tuple[Updater, Updater],
        *,
        hears: str,
        loss_weights: dict[str, float],
        segment_frames: int,
        precision: str,
        ema_decay: float | None,
        started_from: dict[str, str],
    ) -> None:
        self.sources = {"encoder": encoder.digest, **started_from}
        self.encoder, self.normaliser = encoder, normaliser
        self.generator, self.discriminators = generator, discriminators
        self.updater_g, self.updater_d = updaters
        self.hears, self.loss_weights, self.segment_frames = hears, loss_weights, segment_frames
        self.bf16 = precision == "bf16"
        if self.bf16:
            encoder.hold_frozen_in(torch.bfloat16)
        self.device = next(generator.parameters()).device
        self.mel_distance = MelDistance(generator.sample_rate_hz).to(self.device)
        self.average = None if ema_decay is None else MovingAverage(generator, ema_decay)

    @classmethod
    def from_config(cls, config: Any, device: torch.device, root: Path) -> "VocoderRecipe":
        """Make the recipe of a stage's configuration, with the weights that `init_from` names."""
        model = config.model
        encoder = make_encoder(model, root)
        normaliser = FeatureNormaliser(encoder.dim)
        generator = new_generator(dim=encoder.dim, sample_rate_hz=model.sample_rate_hz, **model.generator)
        discriminators = Discriminators(**model.discriminator)
        started_from = {}
        if (published := config.init_from.adapter) is not None:
            weights, started_from["adapter"] = read_weights("init_from.adapter", published, "final", root)
            encoder.load_adapter_state_dict(under("adapters.", weights))
        if (published := config.init_from.vocoder) is not None:
            weights, started_from["vocoder"] = read_weights("init_from.vocoder", published, "final", root)
            generator.load_exported(under("generator.", weights))
            normaliser.load_state_dict(under("normaliser.", weights))
            discriminators.load_state_dict(read_weights("init_from.vocoder", published, "discriminators", root)[0])
        for module in (encoder, normaliser, generator, discriminators):
            module.to(device)
        encoder.requires_grad_(False)
        finite = Finiteness(device)
        return cls(
            encoder,
            normaliser,
            generator,
            discriminators,
            (
                make_updater("generator", generator.named_parameters(), config.optim, finite),
                make_updater("discriminators", discriminators.named_parameters(), config.optim_discriminator, finite),
            ),
            hears=config.hears,
            loss_weights=dict(config.loss),
            segment_frames=config.data.segment_frames,
            precision=config.precision,
            ema_decay=config.ema_decay,
            started_from=started_from,
        )

    def initialise(self, batches: Iterable[Batch]) -> None:
        """Take the statistics of clean features, unless they came with the weights that the stage starts from."""
        if "vocoder" not in self.sources:
            fit_normaliser(self.normaliser, self.encoder, batches, self.device, self.bf16)

    def update(self, batch: Batch, step: int) -> Metrics:
        """Make one update of the discriminators and one of the generator.

        The discriminators hear real and fake once: what they say of them serves their own loss and the generator's, and
        neither player moves before both gradients are known.
        """
        features, real = self._segment(batch)
        weights = self.loss_weights
        adversarial = step >= weights["adversarial_from_step"]
        metrics: Metrics = {}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            first = batch["utterance"] + batch["segment_start"]
            fake, own_loss = self.generator.taught(features, real, first.to(self.device, non_blocking=True))
            fake = fake.float()
            if adversarial:
                known, judged = self.discriminators(real), self.discriminators(fake)
        mel = self.mel_distance(fake, real)
        loss_g = weights["mel"] * mel if own_loss is None else weights["mel"] * mel + own_loss
        if adversarial:
            fooling, matching = generator_adversarial_loss(judged), feature_matching_loss(known, judged)
            loss_g = loss_g + weights["adversarial"] * fooling + weights["feature_matching"] * matching
            metrics["generator/adversarial"] = fooling.detach()
            metrics["generator/feature_matching"] = matching.detach()
        metrics["generator/grad_norm"] = self.updater_g.collect(loss_g, step, retain_graph=adversarial)
        if adversarial:
            loss_d = discriminator_loss(known, judged)
            metrics["discriminator/grad_norm"] = self.updater_d.collect(loss_d, step)
            metrics["discriminator/loss"] = loss_d.detach()
            self.updater_d.apply(step)
        self.updater_g.apply(step)
        if self.average is not None:
            self.average.follow(self.generator, self.updater_g.finite.broken)
        return {**metrics, "generator/loss": loss_g.detach(), "generator/mel": mel.detach()}

    @torch.no_grad()
    def validate(self, batch: Batch) -> Metrics:
        """Return the log-mel distance over whole crops, with the weights that would be exported."""
        features = self._features(batch)
        fake = self._exported_generator()(features).float()
        return {"valid/mel": self.mel_distance(fake, batch["target"].to(self.device))}

    @torch.no_grad()
    def present(self, batch: Batch) -> Presented:
        """Return the generated wave: `restored` where degraded speech is heard, `generated` where clean speech is."""
        wave = self._exported_generator()(self._features(batch)).float()
        return Presented(waves={"restored" if self.hears == "degraded" else "generated": wave})

    def state_dict(self) -> dict[str, Any]:
        """Return generator, discriminators, feature statistics, both optimizers and the moving average."""
        players = (self.updater_g, self.updater_d)
        return {
            "model": {
                **named("generator.", self.generator),
                **named("discriminators.", self.discriminators),
                **named("normaliser.", self.normaliser),
            },
            "optimizers": {player.name: player.optimizer_state() for player in players},
            "schedules": {player.name: player.schedule_state() for player in players},
            "ema": {} if self.average is None else dict(self.average.state_dict()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state, strictly."""
        model = state["model"]
        modules = {"generator.": self.generator, "discriminators.": self.discriminators, "normaliser.": self.normaliser}
        check_names(model, [name for prefix, module in modules.items() for name in named(prefix, module)])
        for prefix, module in modules.items():
            module.load_state_dict(under(prefix, model))
        if (self.average is None) != (not state["ema"]):
            raise ValueError("the checkpoint and this run disagree on ema_decay: one of them keeps a moving average")
        if self.average is not None:
            self.average.load_state_dict(state["ema"])
        for player in (self.updater_g, self.updater_d):
            player.load(state["optimizers"][player.name], state["schedules"][player.name])

    def export(self) -> dict[str, dict[str, Tensor]]:
        """Return what restoring needs, and beside it the discriminators, to fine-tune against."""
        folded = {
            f"generator.{name}": value for name, value in self._exported_generator().exported_state_dict().items()
        }
        return {
            "final": folded | named("normaliser.", self.normaliser),
            "discriminators": dict(self.discriminators.state_dict()),
        }

    def _exported_generator(self) -> Generator:
        if self.average is None:
            return self.generator
        assert isinstance(self.average.module, Generator)
        return self.average.module

    def _features(self, batch: Batch) -> Float[Tensor, "batch frame dim"]:
        waves = batch[self.hears].to(self.device, non_blocking=True)
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.encoder(waves, batch["valid_frames"], adapted=self.hears == "degraded").float()
        return self.normaliser(features)

    def _segment(self, batch: Batch) -> tuple[Float[Tensor, "batch segment dim"], Float[Tensor, "batch time"]]:
        """Return the features and the real waveform of each example's segment."""
        features = self._features(batch)
        starts = batch["segment_start"].to(self.device, non_blocking=True)
        frames = starts[:, None] + torch.arange(self.segment_frames, device=self.device)
        hop = self.generator.sample_rate_hz // 50
        times = starts[:, None] * hop + torch.arange(self.segment_frames * hop, device=self.device)
        wave = batch["target"].to(self.device, non_blocking=True)
        segment = features.gather(1, frames[:, :, None].expand(-1, -1, features.shape[2]))
        return segment, wave.gather(1, times)
