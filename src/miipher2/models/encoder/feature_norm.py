"""Standardisation of encoder features, per dimension, with statistics that are stored with the weights."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class FeatureNormaliser(nn.Module):
    """Shift and scale each feature dimension to mean 0 and deviation 1; without statistics it changes nothing.

    Only `mean` and `std` are state; the sums behind them live as long as the object.
    """

    MIN_STD = 1e-4  # a dimension that is almost constant would otherwise be amplified into noise

    mean: Tensor
    std: Tensor
    _count: Tensor
    _sum: Tensor
    _sum_squares: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))
        self.register_buffer("_count", torch.zeros((), dtype=torch.float64), persistent=False)
        self.register_buffer("_sum", torch.zeros(dim, dtype=torch.float64), persistent=False)
        self.register_buffer("_sum_squares", torch.zeros(dim, dtype=torch.float64), persistent=False)

    @property
    def is_identity(self) -> bool:
        """Return whether nothing was fitted or loaded yet, or what was loaded leaves features as they are."""
        return bool((self.mean == 0).all() and (self.std == 1).all())

    def forward(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame dim"]:
        """Return the standardised features."""
        return (features - self.mean) / self.std

    @torch.no_grad()
    def update(
        self, features: Float[Tensor, "batch frame dim"], valid: Bool[Tensor, "batch frame"] | None = None
    ) -> None:
        """Add valid frames to the statistics: `mean` and `std` are those of all frames so far."""
        rows = features.flatten(0, 1) if valid is None else features[valid]
        rows = rows.double()
        self._count += len(rows)
        self._sum += rows.sum(0)
        self._sum_squares += rows.square().sum(0)
        mean = self._sum / self._count
        variance = (self._sum_squares / self._count - mean.square()).clamp_min(0)
        self.mean.copy_(mean)
        self.std.copy_(variance.sqrt().clamp_min(self.MIN_STD))

    @torch.no_grad()
    def set_statistics(self, mean: Float[Tensor, " dim"], std: Float[Tensor, " dim"]) -> None:
        """Replace the statistics.

        Raises:
            ValueError: a deviation is not positive, or the dimensions differ; nothing is changed.
        """
        if mean.shape != self.mean.shape or std.shape != self.std.shape:
            raise ValueError(f"statistics of {len(mean)} and {len(std)} dimensions; should be {len(self.mean)}")
        if not bool((std > 0).all()):
            raise ValueError(f"smallest standard deviation {std.min().item()}; should be greater than 0")
        self.mean.copy_(mean)
        self.std.copy_(std)
