"""The decoder of the Descript audio codec as a vocoder: upsampling with periodic activations, as in Sidon."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from miipher2.config.schema_data import FRAMES_PER_SECOND
from miipher2.models.vocoder.generator import Generator, context_of_upsampling
from miipher2.models.vocoder.hifigan import as_row, convolve, convolve_transposed

KERNEL = 7  # of every convolution along time, as in the codec
EPSILON = 1e-9  # added to the frequency that the activation divides by


class Dac(Generator):
    """The codec's decoder.

    Args:
        dim: size of a feature.
        sample_rate_hz: of the wave.
        channels: after the first convolution; halved by every upsampling. 1536 in the codec.
        upsample_factors: their product is the number of samples in a frame.
        dilations: of the residual units after every upsampling; 1, 3, 9 in the codec.

    Raises:
        ValueError: the factors do not multiply to sample_rate_hz / 50, or the channels cannot be halved that often.

    Source: Kumar et al. 2023, Descript audio codec (arXiv:2306.06546); for features of an encoder Nakata et al. 2025,
    Sidon (arXiv:2509.17052). The codec's odd factors lose samples; here a transposed convolution makes them up.
    """

    def __init__(
        self,
        dim: int,
        sample_rate_hz: int,
        channels: int,
        upsample_factors: Sequence[int],
        dilations: Sequence[int],
    ) -> None:
        super().__init__(sample_rate_hz)
        if (product := math.prod(upsample_factors)) != sample_rate_hz // FRAMES_PER_SECOND:
            raise ValueError(
                f"upsample_factors={list(upsample_factors)} multiply to {product}; "
                f"should be {sample_rate_hz // FRAMES_PER_SECOND} for sample_rate_hz={sample_rate_hz}"
            )
        if channels % 2 ** len(upsample_factors):
            raise ValueError(
                f"channels={channels} are halved {len(upsample_factors)} times; "
                f"should be a multiple of {2 ** len(upsample_factors)}"
            )
        self.upsample_factors, self.dilations = tuple(upsample_factors), tuple(dilations)
        self.first = weight_norm(_drawn(nn.Conv1d(dim, channels, KERNEL, padding=KERNEL // 2)))
        self.blocks = nn.ModuleList(
            UpsamplingBlock(channels // 2**number, factor, self.dilations)
            for number, factor in enumerate(self.upsample_factors)
        )
        channels //= 2 ** len(self.upsample_factors)
        self.snake = Snake(channels)
        self.last = weight_norm(_drawn(nn.Conv1d(channels, 1, KERNEL, padding=KERNEL // 2)))

    @property
    def context_frames(self) -> int:
        """Return how many neighbouring frames on each side affect a frame's samples."""
        shapes = [(factor, 2 * factor, -(-factor // 2)) for factor in self.upsample_factors]
        block = sum(KERNEL // 2 * dilation for dilation in self.dilations)
        return context_of_upsampling(shapes, edge=KERNEL // 2, block=block)

    def forward(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch time"]:
        """Return waves in [-1, 1] of `hop_samples` samples per frame."""
        hidden = convolve(self.first, as_row(features.transpose(1, 2)))
        for block in self.blocks:
            hidden = block(hidden)
        # In float32 under autocast too: bfloat16 would leave 8 bits of each sample.
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = self.snake(hidden.to(self.last.weight.dtype))
            return torch.tanh(convolve(self.last, hidden)).flatten(1)


class Snake(nn.Module):
    """The activation x + sin²(ax) / a, with a frequency for each channel.

    Source: Ziyin et al. 2020 (arXiv:2006.08195).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, hidden: Float[Tensor, "batch channel 1 time"]) -> Float[Tensor, "batch channel 1 time"]:
        """Return the activation."""
        alpha = self.alpha[:, None, None]
        return hidden + torch.sin(alpha * hidden).square() / (alpha + EPSILON)


class UpsamplingBlock(nn.Module):
    """A transposed convolution that halves the channels, and residual units."""

    def __init__(self, channels: int, factor: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.snake = Snake(channels)
        self.upsample = weight_norm(
            nn.ConvTranspose1d(
                channels, channels // 2, 2 * factor, factor, padding=-(-factor // 2), output_padding=factor % 2
            )
        )
        self.units = nn.ModuleList(ResidualUnit(channels // 2, dilation) for dilation in dilations)

    def forward(self, hidden: Float[Tensor, "batch channel 1 time"]) -> Float[Tensor, "batch half 1 longer"]:
        """Return `factor` values for each."""
        hidden = convolve_transposed(self.upsample, self.snake(hidden))
        for unit in self.units:
            hidden = unit(hidden)
        return hidden


class ResidualUnit(nn.Module):
    """A dilated convolution and one over channels, each after an activation, with a skip connection."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.first_snake, self.second_snake = Snake(channels), Snake(channels)
        padding = KERNEL // 2 * dilation
        self.dilated = weight_norm(_drawn(nn.Conv1d(channels, channels, KERNEL, dilation=dilation, padding=padding)))
        self.plain = weight_norm(_drawn(nn.Conv1d(channels, channels, 1)))

    def forward(self, hidden: Float[Tensor, "batch channel 1 time"]) -> Float[Tensor, "batch channel 1 time"]:
        """Return the input plus what the convolutions add."""
        inner = convolve(self.dilated, self.first_snake(hidden))
        return hidden + convolve(self.plain, self.second_snake(inner))


def _drawn(conv: nn.Conv1d) -> nn.Conv1d:
    """Return a convolution with weights drawn as the codec draws them."""
    assert conv.bias is not None
    nn.init.trunc_normal_(conv.weight, std=0.02)
    nn.init.zeros_(conv.bias)
    return conv
