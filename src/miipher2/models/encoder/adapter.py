"""Parallel adapters: the trained part beside a frozen feed-forward block."""

from jaxtyping import Float
from torch import Tensor, nn


class Adapter(nn.Module):
    """A bottleneck whose output is 0 until it is trained, since its last layer starts at zero.

    Source: Karita et al. 2025, Miipher-2 (arXiv:2505.04457); He et al. 2022, parallel adapters (arXiv:2110.04366).
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.down = nn.Linear(dim, hidden_dim)
        self.activation = nn.GELU()
        self.up = nn.Linear(hidden_dim, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame dim"]:
        """Return what is added to the block's output."""
        return self.up(self.activation(self.down(self.norm(hidden))))


class AdaptedBlock(nn.Module):
    """A block with an adapter beside it, whose output is added times `strength`: 0 the block alone, 1 as trained."""

    def __init__(self, block: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.block = block
        self.adapter = adapter
        self.strength = 0.0

    def forward(self, hidden: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame dim"]:
        """Return the block's output, plus the adapter's times `strength`."""
        output = self.block(hidden)
        if self.strength == 0:
            return output
        added = self.adapter(hidden)
        return output + (added if self.strength == 1 else self.strength * added)
