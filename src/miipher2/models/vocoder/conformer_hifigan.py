"""HiFi-GAN behind conformer layers that attend to all frames at once, as in the original Miipher-2 code's release.

Attention reaches all frames, so these layers cannot run on chunks: when restoring they run on the windows that the
encoder attends to, and HiFi-GAN alone on chunks of what they give.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from miipher2.models.vocoder.generator import ChunkPosition
from miipher2.models.vocoder.hifigan import HifiGan


class ConformerHifiGan(HifiGan):
    """Conformer layers, then HiFi-GAN's generator on `channels` values a frame.

    Args:
        conformer_dim: size of a frame in the conformer layers; a multiple of their heads.
        conformer_hidden_dim: of their feed-forward blocks.
        conformer_layers: how many.
        conformer_heads: of the attention.
        conformer_kernel: frames of their convolution; odd.

    Raises:
        ValueError: as HiFi-GAN, or the heads do not divide `conformer_dim`, or the kernel is even.
    """

    has_prenet = True

    def __init__(
        self,
        dim: int,
        sample_rate_hz: int,
        channels: int,
        upsample_factors: Sequence[int],
        kernels: Sequence[int],
        dilations: Sequence[int],
        *,
        conformer_dim: int,
        conformer_hidden_dim: int,
        conformer_layers: int,
        conformer_heads: int,
        conformer_kernel: int,
    ) -> None:
        super().__init__(channels, sample_rate_hz, channels, upsample_factors, kernels, dilations)
        if conformer_dim % conformer_heads:
            raise ValueError(f"conformer_dim={conformer_dim}; should be a multiple of the {conformer_heads} heads")
        if conformer_kernel % 2 == 0:
            raise ValueError(f"conformer_kernel={conformer_kernel}; should be odd, or the output changes length")
        self.project_in = nn.Linear(dim, conformer_dim)
        self.layers = nn.ModuleList(
            ConformerLayer(conformer_dim, conformer_hidden_dim, conformer_heads, conformer_kernel)
            for _ in range(conformer_layers)
        )
        self.project_out = nn.Linear(conformer_dim, channels)

    def run_prenet(
        self, features: Float[Tensor, "batch frame dim"], valid: Bool[Tensor, "batch frame"] | None = None
    ) -> Float[Tensor, "batch frame channel"]:
        """Return what HiFi-GAN takes; frames that are not valid change no other."""
        hidden = self.project_in(features)
        for layer in self.layers:
            hidden = layer(hidden, valid)
        return self.project_out(hidden)

    def forward(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch time"]:
        """Return waves in [-1, 1] of `hop_samples` samples per frame."""
        return super().forward(self.run_prenet(features))

    def forward_chunk(
        self, features: Float[Tensor, "batch frame channel"], position: ChunkPosition
    ) -> Float[Tensor, "batch time"]:
        """Return the waves of chunks of what `run_prenet` gives."""
        return super().forward(features)


class ConformerLayer(nn.Module):
    """Half a feed-forward block, attention, convolution, half a feed-forward block, each beside its input.

    Source: Gulati et al. 2020, Conformer (arXiv:2005.08100), without positions, and without batch norm: one that is no
    longer trained is part of the convolution before it.
    """

    def __init__(self, dim: int, hidden_dim: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.first_feed_forward = FeedForward(dim, hidden_dim)
        self.attention = Attention(dim, heads)
        self.convolution = Convolution(dim, kernel)
        self.second_feed_forward = FeedForward(dim, hidden_dim)
        self.last_norm = nn.LayerNorm(dim)

    def forward(
        self, hidden: Float[Tensor, "batch frame dim"], valid: Bool[Tensor, "batch frame"] | None
    ) -> Float[Tensor, "batch frame dim"]:
        """Return the layer's output."""
        hidden = hidden + 0.5 * self.first_feed_forward(hidden)
        hidden = hidden + self.attention(hidden, valid)
        hidden = hidden + self.convolution(hidden, valid)
        hidden = hidden + 0.5 * self.second_feed_forward(hidden)
        return self.last_norm(hidden)


class FeedForward(nn.Module):
    """A layer norm and two linear layers."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, hidden: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame dim"]:
        """Return what is added to the input."""
        return self.down(F.silu(self.up(self.norm(hidden))))


class Attention(nn.Module):
    """A layer norm and attention of all frames to all valid ones."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.query_key_value, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(
        self, hidden: Float[Tensor, "batch frame dim"], valid: Bool[Tensor, "batch frame"] | None
    ) -> Float[Tensor, "batch frame dim"]:
        """Return what is added to the input."""
        joined = self.query_key_value(self.norm(hidden)).unflatten(2, (3, self.heads, -1))
        query, key, value = joined.permute(2, 0, 3, 1, 4)
        mask = None if valid is None else valid[:, None, None]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(attended.transpose(1, 2).flatten(2))


class Convolution(nn.Module):
    """A layer norm, a gated linear layer, a convolution of each channel, and a linear layer."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.gated = nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self, hidden: Float[Tensor, "batch frame dim"], valid: Bool[Tensor, "batch frame"] | None
    ) -> Float[Tensor, "batch frame dim"]:
        """Return what is added to the input."""
        hidden = F.glu(self.gated(self.norm(hidden)), dim=-1)
        if valid is not None:
            hidden = hidden.masked_fill(~valid[..., None], 0)
        return self.out(F.silu(self.depthwise(hidden.transpose(1, 2)).transpose(1, 2)))
