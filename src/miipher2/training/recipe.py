"""What a stage adds to the loop: the protocol of a recipe and of a tracker."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

Batch = dict[str, Tensor]
Metrics = dict[str, Tensor]


@runtime_checkable
class Recipe(Protocol):
    """A model with its losses and updaters. It owns gradients; the loop owns time."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Name all metrics, in the order of history.csv."""

    sources: dict[str, str]  # digests of the frozen weights that it uses, by name

    def initialise(self, batches: Iterable[Batch]) -> None:
        """Take what must be known before the first update (feature statistics) from a fresh run's first batches."""

    def update(self, batch: Batch, step: int) -> Metrics:
        """Make update `step + 1` and return its metrics, still on the device."""

    def validate(self, batch: Batch) -> Metrics:
        """Return the metrics of one validation batch and change nothing."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `update` changes: model, optimizers, schedules, ema."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over such a state, strictly."""

    def export(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights alone by file and name: `final` is what the next stage and restoring use."""


@dataclass(frozen=True)
class Presented:
    """What a recipe makes of a batch, to hear and to see.

    Args:
        waves: by name, [batch, time] at the rate of the targets.
        features: by name, [batch, frame, dim], normalised.
    """

    waves: Mapping[str, Tensor] = field(default_factory=dict)
    features: Mapping[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Presenting(Protocol):
    """A recipe whose work can be heard or seen while it trains."""

    def present(self, batch: Batch) -> Presented:
        """Return what it makes of a batch, with the weights that would be exported, and change nothing."""


@runtime_checkable
class Tracker(Protocol):
    """Where metrics go."""

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Record the metrics of one step."""

    def history(self) -> str:
        """Return the text of history.csv so far."""

    def identity(self) -> dict[str, str] | None:
        """Return the W&B run (id, name, project), or None."""
