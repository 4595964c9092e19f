"""The parallel adapter: what is trained beside a frozen feed-forward block."""

from jaxtyping import Float
from torch import Tensor, nn


class Adapter(nn.Module):
    """A bottleneck that adds nothing until it is trained: its last layer starts at zero.

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
        """Return what is added to the block's own output."""
        return self.up(self.activation(self.down(self.norm(hidden))))


class WithAdapter(nn.Module):
    """A block and the adapter beside it; `active` says whether the adapter is heard."""

    def __init__(self, block: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.block = block
        self.adapter = adapter
        self.active = False

    def forward(self, hidden: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame dim"]:
        """Return the block's output, plus the adapter's while it is active."""
        output = self.block(hidden)
        return output + self.adapter(hidden) if self.active else output
