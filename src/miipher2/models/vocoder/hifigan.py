"""HiFi-GAN's generator: transposed convolutions from 50 frames per second up to the wave.

Convolutions over time run as convolutions over images of one row, whose memory layout can be chosen: on a CPU, those
without a gradient are two to four times as fast with channels last, since oneDNN then copies nothing.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from miipher2.config.schema_data import FRAMES_PER_SECOND
from miipher2.models.vocoder.generator import Generator, context_of_upsampling

SLOPE = 0.1  # of every LeakyReLU but the last, as in HiFi-GAN
LAST_SLOPE = 0.01
EDGE_KERNEL = 7  # of the first and the last convolution, as in HiFi-GAN


class HifiGan(Generator):
    """HiFi-GAN's generator.

    Args:
        dim: size of a feature.
        sample_rate_hz: of the wave.
        channels: after the first convolution; halved by every upsampling.
        upsample_factors: their product is the number of samples in a frame.
        kernels: of the residual blocks after every upsampling, one each; odd.
        dilations: of the convolutions in each block.

    Raises:
        ValueError: the factors do not multiply to sample_rate_hz / 50, the channels cannot be halved that often, or a
            kernel is even.

    Source: Kong et al. 2020, HiFi-GAN (arXiv:2010.05646), generator with residual blocks of type 1.
    """

    def __init__(
        self,
        dim: int,
        sample_rate_hz: int,
        channels: int,
        upsample_factors: Sequence[int],
        kernels: Sequence[int],
        dilations: Sequence[int],
    ) -> None:
        super().__init__(sample_rate_hz)
        _check_arguments(sample_rate_hz, channels, upsample_factors, kernels)
        self.upsample_factors = tuple(upsample_factors)
        self.kernels, self.dilations = tuple(kernels), tuple(dilations)
        self.first = weight_norm(nn.Conv1d(dim, channels, EDGE_KERNEL, padding=EDGE_KERNEL // 2))
        self.upsamples = nn.ModuleList()
        self.blocks = nn.ModuleList()
        for factor in self.upsample_factors:
            kernel, padding = upsample_shape(factor)
            self.upsamples.append(
                weight_norm(nn.ConvTranspose1d(channels, channels // 2, kernel, stride=factor, padding=padding))
            )
            channels //= 2
            self.blocks.append(ResidualBlocks(channels, self.kernels, self.dilations))
        self.last = weight_norm(nn.Conv1d(channels, 1, EDGE_KERNEL, padding=EDGE_KERNEL // 2))

    @property
    def context_frames(self) -> int:
        """Return how many neighbouring frames on each side affect a frame's samples."""
        block = max(sum(kernel // 2 * (dilation + 1) for dilation in self.dilations) for kernel in self.kernels)
        shapes = [(factor, *upsample_shape(factor)) for factor in self.upsample_factors]
        return context_of_upsampling(shapes, edge=EDGE_KERNEL // 2, block=block)

    def forward(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch time"]:
        """Return waves in [-1, 1] of `hop_samples` samples per frame."""
        hidden = convolve(self.first, as_row(features.transpose(1, 2)))
        for upsample, blocks in zip(self.upsamples, self.blocks, strict=True):
            hidden = blocks(convolve_transposed(upsample, F.leaky_relu(hidden, SLOPE)))
        # In float32 under autocast too: bfloat16 would leave 8 bits of each sample.
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = F.leaky_relu(hidden.to(self.last.weight.dtype), LAST_SLOPE)
            return torch.tanh(convolve(self.last, hidden)).flatten(1)


class ResidualBlocks(nn.Module):
    """The mean of one residual block per kernel: HiFi-GAN's multi-receptive field fusion."""

    def __init__(self, channels: int, kernels: Sequence[int], dilations: Sequence[int]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(channels, kernel, dilations) for kernel in kernels)

    def forward(self, hidden: Float[Tensor, "batch channel 1 time"]) -> Float[Tensor, "batch channel 1 time"]:
        """Return the mean of the blocks' outputs."""
        total = self.blocks[0](hidden)
        for block in self.blocks[1:]:
            total = total + block(hidden)
        return total / len(self.blocks)


class ResidualBlock(nn.Module):
    """For each dilation, a dilated and a plain convolution with a skip connection."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=kernel // 2 * dilation))
            for dilation in dilations
        )
        self.plain = nn.ModuleList(
            weight_norm(nn.Conv1d(channels, channels, kernel, padding=kernel // 2)) for _ in dilations
        )

    def forward(self, hidden: Float[Tensor, "batch channel 1 time"]) -> Float[Tensor, "batch channel 1 time"]:
        """Return the input plus what the convolutions add."""
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            residual = F.leaky_relu(convolve(dilated, F.leaky_relu(hidden, SLOPE)), SLOPE)
            hidden = hidden + convolve(plain, residual)
        return hidden


def as_row(hidden: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch channel 1 time"]:
    """Return an image of one row, in the fast layout where it helps; later layers keep it."""
    is_fast = hidden.device.type == "cpu" and not torch.is_grad_enabled()
    return hidden[:, :, None].contiguous(memory_format=torch.channels_last if is_fast else torch.contiguous_format)


def convolve(conv: Any, row: Float[Tensor, "batch channel 1 time"]) -> Float[Tensor, "batch channel_out 1 time_out"]:
    """Apply an `nn.Conv1d` to an image of one row."""
    shape = {"stride": (1, *conv.stride), "padding": (0, *conv.padding), "dilation": (1, *conv.dilation)}
    return F.conv2d(row, conv.weight[:, :, None], conv.bias, groups=conv.groups, **shape)


def convolve_transposed(
    conv: Any, row: Float[Tensor, "batch channel 1 time"]
) -> Float[Tensor, "batch channel_out 1 time_out"]:
    """Apply an `nn.ConvTranspose1d` to an image of one row."""
    paddings = (0, *conv.padding), (0, *conv.output_padding)
    return F.conv_transpose2d(row, conv.weight[:, :, None], conv.bias, (1, *conv.stride), *paddings)


def upsample_shape(factor: int) -> tuple[int, int]:
    """Return kernel and padding of a transposed convolution that gives exactly `factor` outputs per input."""
    return (2 * factor, factor // 2) if factor % 2 == 0 else (2 * factor + 1, (factor + 1) // 2)


def _check_arguments(
    sample_rate_hz: int, channels: int, upsample_factors: Sequence[int], kernels: Sequence[int]
) -> None:
    hop_samples = sample_rate_hz // FRAMES_PER_SECOND
    if (product := math.prod(upsample_factors)) != hop_samples:
        raise ValueError(
            f"upsample_factors={list(upsample_factors)} multiply to {product}; "
            f"should be {hop_samples} for sample_rate_hz={sample_rate_hz}"
        )
    if channels % 2 ** len(upsample_factors):
        raise ValueError(
            f"channels={channels} are halved {len(upsample_factors)} times; "
            f"should be a multiple of {2 ** len(upsample_factors)}"
        )
    if even := [kernel for kernel in kernels if kernel % 2 == 0]:
        raise ValueError(f"kernels={list(kernels)}: {even[0]} should be odd, or the output changes length")
