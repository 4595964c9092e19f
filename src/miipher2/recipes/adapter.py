"""Stage 1: parallel adapters that give, for degraded speech, the features the frozen encoder has for clean speech."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from miipher2.losses import feature_loss
from miipher2.models.normaliser import FeatureNormaliser
from miipher2.models.ssl import SpeechEncoder
from miipher2.recipes.parts import check_names, fit_normaliser, halves, make_encoder, make_updater, named, under
from miipher2.training import ranks
from miipher2.training.recipe import Batch, Metrics, Presented
from miipher2.training.updater import Updater


class AdapterRecipe:
    """Trains the encoder's adapters against its own frozen layers: one copy and one pass of the front end for both.

    Args:
        encoder: with adapters, on the device to train on.
        loss_weights: of `l1`, `l2` and `spectral_convergence`.
        precision: `fp32` or `bf16` (autocast).

    Source: Karita et al. 2025, Miipher-2 (arXiv:2505.04457), section 2; loss of Koizumi et al. 2023 (arXiv:2303.01664).
    """

    metric_names = (
        "adapter/loss",
        "adapter/grad_norm",
        "valid/loss",
        "valid/error_ratio",
        "valid/l1_ratio",
    )

    def __init__(
        self, encoder: SpeechEncoder, updater: Updater, *, loss_weights: dict[str, float], precision: str
    ) -> None:
        self.encoder = encoder
        self.sources = {"encoder": encoder.digest}
        self.device = next(encoder.parameters()).device
        self.normaliser = FeatureNormaliser(encoder.dim).to(self.device)
        self.updater = updater
        self.loss_weights: dict[str, Any] = loss_weights
        self.bf16 = precision == "bf16"
        if self.bf16:
            encoder.hold_frozen_in(torch.bfloat16)

    @classmethod
    def from_config(cls, config: Any, device: torch.device, root: Path) -> "AdapterRecipe":
        """Make the recipe of a stage's configuration."""
        encoder = make_encoder(config.model, root).to(device)
        updater = make_updater("adapter", encoder.adapters.named_parameters(), config.optim)
        return cls(encoder, updater, loss_weights=dict(config.loss), precision=config.precision)

    def initialise(self, batches: Iterable[Batch]) -> None:
        """Take the statistics of clean features."""
        fit_normaliser(self.normaliser, self.encoder, batches, self.device, self.bf16)

    def update(self, batch: Batch, step: int) -> Metrics:
        """Move the adapters once towards the clean features."""
        predicted, target, _, valid = self._features(batch)
        loss = feature_loss(predicted, target, valid, average=ranks.mean, **self.loss_weights)
        norm = self.updater.minimize(loss, step)
        return {"adapter/loss": loss.detach(), "adapter/grad_norm": norm}

    @torch.no_grad()
    def validate(self, batch: Batch) -> Metrics:
        """Return the loss, and how much of the degraded features' error is left (squared, and L1)."""
        predicted, target, degraded, valid = self._features(batch, with_degraded=True)
        assert degraded is not None
        return {
            "valid/loss": feature_loss(predicted, target, valid, **self.loss_weights),
            "valid/error_ratio": _mean((predicted - target) ** 2, valid) / _mean((degraded - target) ** 2, valid),
            "valid/l1_ratio": _mean((predicted - target).abs(), valid) / _mean((degraded - target).abs(), valid),
        }

    @torch.no_grad()
    def present(self, batch: Batch) -> Presented:
        """Return the features of clean and of degraded speech, and what the adapters make of the latter."""
        predicted, target, degraded, _ = self._features(batch, with_degraded=True)
        assert degraded is not None
        return Presented(features={"clean": target, "degraded": degraded, "cleaned": predicted})

    def state_dict(self) -> dict[str, Any]:
        """Return the adapters, the feature statistics and the optimizer; the frozen encoder is its name and digest."""
        return {
            "model": self._weights(),
            "optimizers": {self.updater.name: self.updater.optimizer_state()},
            "schedules": {self.updater.name: self.updater.schedule_state()},
            "ema": {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state, strictly."""
        model = state["model"]
        check_names(model, self._weights())
        self.encoder.load_adapter_state_dict(under("adapters.", model))
        self.normaliser.load_state_dict(under("normaliser.", model))
        name = self.updater.name
        self.updater.load(state["optimizers"][name], state["schedules"][name])

    def export(self) -> dict[str, dict[str, Tensor]]:
        """Return adapters and feature statistics."""
        return {"final": self._weights()}

    def _weights(self) -> dict[str, Tensor]:
        adapters = {f"adapters.{name}": tensor for name, tensor in self.encoder.adapter_state_dict().items()}
        return adapters | named("normaliser.", self.normaliser)

    def _features(
        self, batch: Batch, with_degraded: bool = False
    ) -> tuple[
        Float[Tensor, "batch frame dim"],
        Float[Tensor, "batch frame dim"],
        Float[Tensor, "batch frame dim"] | None,
        Bool[Tensor, "batch frame"],
    ]:
        """Return predicted, clean and (for validation) degraded features, normalised, and which frames hold audio."""
        # Each as it lies in pinned memory: what is joined before it is copied would lie elsewhere.
        both = torch.cat([batch[side].to(self.device, non_blocking=True) for side in ("clean", "degraded")])
        frames = batch["valid_frames"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            embedded = self.encoder.embed(both, frames.repeat(2))
            clean, degraded = halves(embedded)
            with torch.no_grad():
                target = self.encoder.contextualise(clean, adapted=False)
                plain = self.encoder.contextualise(degraded, adapted=False) if with_degraded else None
            predicted = self.encoder.contextualise(degraded, adapted=True)
        counts = frames.to(self.device, non_blocking=True)
        valid = torch.arange(target.shape[1], device=self.device) < counts[:, None]
        normalise = self.normaliser
        return (
            normalise(predicted.float()),
            normalise(target.float()),
            None if plain is None else normalise(plain.float()),
            valid,
        )


def _mean(values: Float[Tensor, "batch frame dim"], valid: Bool[Tensor, "batch frame"]) -> Float[Tensor, ""]:
    return values[valid].mean()
