"""Stage 1: parallel adapters that turn the encoder's features of degraded speech into those of clean speech."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from miipher2.config.schema import AdapterConfig
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.feature_norm import FeatureNormaliser
from miipher2.recipes.components import check_names, fit_normaliser, make_encoder, make_optimizer, named, under
from miipher2.recipes.init_from import start_adapters
from miipher2.training import distributed
from miipher2.training.losses import feature_loss
from miipher2.training.optimizer import NetworkOptimizer
from miipher2.training.recipe import Batch, Metrics


class AdapterRecipe:
    """Trains the encoder's adapters against its own frozen layers, which share one copy and one front-end pass.

    Args:
        encoder: with adapters, on the device to train on.
        loss_weights: of `l1`, `l2` and `spectral_convergence`.
        precision: as `choose_precision` returns it; `bf16` is autocast.
        init_digests: sha256 of the weights that the stage started from: `adapter`.

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
        self,
        encoder: SpeechEncoder,
        normaliser: FeatureNormaliser,
        optimizer: NetworkOptimizer,
        *,
        loss_weights: dict[str, float],
        precision: str,
        init_digests: dict[str, str],
    ) -> None:
        self.encoder, self.normaliser, self.optimizer = encoder, normaliser, optimizer
        self.upstream_digests = {"encoder": encoder.digest, **init_digests}
        self.device = next(encoder.parameters()).device
        self.loss_weights: dict[str, Any] = loss_weights
        assert precision != "auto"
        self.bf16 = precision == "bf16"
        if self.bf16:
            encoder.cast_frozen_weights(torch.bfloat16)

    @classmethod
    def from_config(cls, config: AdapterConfig, device: torch.device, root: Path) -> "AdapterRecipe":
        """Build the recipe that a stage's configuration describes, with the weights that `init_from` names."""
        encoder = make_encoder(config.model, root)
        normaliser = FeatureNormaliser(encoder.dim)
        encoder.to(device)
        optimizer = make_optimizer("adapter", encoder.adapters.named_parameters(), config.optim)
        init_digests = start_adapters(config, encoder, root, normaliser, optimizer)
        return cls(
            encoder,
            normaliser.to(device),
            optimizer,
            loss_weights=asdict(config.loss),
            precision=config.precision,
            init_digests=init_digests,
        )

    def initialise(self, batches: Iterable[Batch]) -> None:
        """Fit the statistics of clean features, unless they came with the weights that the stage starts from.

        Imported adapters have none.
        """
        if self.normaliser.is_identity:
            fit_normaliser(self.normaliser, self.encoder, batches, self.device, self.bf16)

    def update(self, batch: Batch, step: int) -> Metrics:
        """Move the adapters once towards the clean features."""
        predicted, target, _, valid = self._features(batch)
        loss = feature_loss(predicted, target, valid, average=distributed.mean_over_ranks, **self.loss_weights)
        norm = self.optimizer.minimize(loss, step)
        return {"adapter/loss": loss.detach(), "adapter/grad_norm": norm}

    @torch.no_grad()
    def validate(self, batch: Batch) -> Metrics:
        """Return the loss, and how much of the degraded features' error remains (squared, and L1)."""
        predicted, target, degraded, valid = self._features(batch, with_degraded=True)
        assert degraded is not None
        return {
            "valid/loss": feature_loss(predicted, target, valid, **self.loss_weights),
            "valid/error_ratio": _mean((predicted - target) ** 2, valid) / _mean((degraded - target) ** 2, valid),
            "valid/l1_ratio": _mean((predicted - target).abs(), valid) / _mean((degraded - target).abs(), valid),
        }

    @torch.no_grad()
    def samples(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the features of clean and of degraded speech, and the adapters' features of degraded speech."""
        predicted, target, degraded, _ = self._features(batch, with_degraded=True)
        assert degraded is not None
        return {}, {"clean": target, "degraded": degraded, "cleaned": predicted}

    def state_dict(self) -> dict[str, Any]:
        """Return adapters, feature statistics and optimizer; the frozen encoder is only its name and digest."""
        return {
            "model": self._weights(),
            "optimizers": {self.optimizer.name: self.optimizer.optimizer_state()},
            "schedules": {self.optimizer.name: self.optimizer.schedule_state()},
            "ema": {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load such a state, strictly."""
        model = state["model"]
        check_names(model, self._weights())
        self.encoder.load_adapter_state_dict(under("adapters.", model))
        self.normaliser.load_state_dict(under("normaliser.", model))
        name = self.optimizer.name
        self.optimizer.load(state["optimizers"][name], state["schedules"][name])

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
        """Return predicted, clean and (for validation) degraded features, normalised, and which frames are valid."""
        # Copied before they are joined: the join of two pinned tensors is not pinned.
        both = torch.cat([batch[side].to(self.device, non_blocking=True) for side in ("clean", "degraded")])
        frames = batch["valid_frames"]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            clean, degraded = self.encoder.extract_frames(both, frames.repeat(2)).halves()
            with torch.no_grad():
                target = self.encoder.encode_frames(clean, adapted=False)
                plain = self.encoder.encode_frames(degraded, adapted=False) if with_degraded else None
            predicted = self.encoder.encode_frames(degraded, adapted=True)
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
