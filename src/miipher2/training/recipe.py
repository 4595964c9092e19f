"""What a stage adds to the loop: the protocol of a recipe."""

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]


@runtime_checkable
class Recipe(Protocol):
    """A model with its losses and optimizers. It owns gradients; the loop owns time."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """All metrics, in the order of history.csv."""

    upstream_digests: dict[str, str]  # sha256 of the weights that it was given, by name

    def initialise(self, batches: Iterable[Batch]) -> None:
        """Fit what must be known before the first update (feature statistics) on a fresh run's first batches."""

    def update(self, batch: Batch, step: int) -> Metrics:
        """Make update `step + 1` and return its metrics, still on the device."""

    def validate(self, batch: Batch) -> Metrics:
        """Return the metrics of one validation batch; change nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `update` changes: model, optimizers, schedules, ema."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load such a state, strictly."""

    def export(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights alone by file and name: `final` is what the next stage and inference use."""


@runtime_checkable
class HasSamples(Protocol):
    """A recipe whose output can be listened to or looked at during training."""

    def samples(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return waveforms [batch, time] and normalised features [batch, frame, dim] by name; change nothing."""
