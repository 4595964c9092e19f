"""Vocos: ConvNeXt blocks at 50 frames per second, then one inverse Fourier transform up to the wave."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from miipher2.models.vocoder.generator import Generator

KERNEL = 7  # of every convolution, in frames, as in Vocos
MAX_MAGNITUDE = 100.0  # of a bin, as in Vocos: keeps the exponential from exploding


class ConvNextGenerator(Generator):
    """A generator whose backbone is a stack of ConvNeXt blocks.

    Args:
        dim: size of a feature.
        sample_rate_hz: of the wave.
        channels: between the blocks.
        hidden_channels: inside a block.
        blocks: number of ConvNeXt blocks.
    """

    def __init__(self, dim: int, sample_rate_hz: int, channels: int, hidden_channels: int, blocks: int) -> None:
        super().__init__(sample_rate_hz)
        self.first = nn.Conv1d(dim, channels, KERNEL, padding=KERNEL // 2)
        self.first_norm = nn.LayerNorm(channels, eps=1e-6)
        self.blocks = nn.ModuleList(ConvNextBlock(channels, hidden_channels, 1 / blocks) for _ in range(blocks))
        self.last_norm = nn.LayerNorm(channels, eps=1e-6)

    @property
    def backbone_context_frames(self) -> int:
        """Return how many neighbouring frames on each side the backbone's output depends on."""
        return KERNEL // 2 * (1 + len(self.blocks))

    def backbone(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame channel"]:
        """Return the output of the blocks."""
        hidden = self.first_norm(self.first(features.transpose(1, 2)).transpose(1, 2))
        for block in self.blocks:
            hidden = block(hidden)
        return hidden

    def init_weights(self) -> None:
        """Draw the weights of every layer as Vocos does; call it once all layers exist."""
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                assert module.bias is not None
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)


class Vocos(ConvNextGenerator):
    """Vocos: ten times cheaper than HiFi-GAN, since only the last step runs above 50 Hz.

    Args:
        window_frames: length of the Fourier window in frames, whose hop is one frame; 4 in Vocos. The other arguments
            are those of `ConvNextGenerator`.

    Raises:
        ValueError: the window is shorter than 2 frames, so that windows would not overlap, or of odd length.

    Source: Siuzdak 2023, Vocos (arXiv:2306.00814).
    """

    window: Tensor

    def __init__(
        self, dim: int, sample_rate_hz: int, channels: int, hidden_channels: int, blocks: int, window_frames: int
    ) -> None:
        super().__init__(dim, sample_rate_hz, channels, hidden_channels, blocks)
        self.window_frames, self.window_samples = window_frames, window_frames * self.hop_samples
        if window_frames < 2 or self.window_samples % 2:
            raise ValueError(
                f"window_frames={window_frames} are {self.window_samples} samples at sample_rate_hz={sample_rate_hz}; "
                "should be 2 frames or more, and an even number of samples"
            )
        self.last = nn.Linear(channels, self.window_samples + 2)
        self.init_weights()
        self.register_buffer("window", torch.hann_window(self.window_samples), persistent=False)

    @property
    def context_frames(self) -> int:
        """Return how many neighbouring frames on each side affect a frame's samples."""
        overlap_samples = self.window_samples - self.hop_samples
        return self.backbone_context_frames - (overlap_samples // 2 - overlap_samples) // self.hop_samples

    def forward(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch time"]:
        """Return waves of `hop_samples` samples per frame."""
        return self.overlap_add(torch.fft.irfft(torch.complex(*self.spectrum(features)), n=self.window_samples))

    def spectrum(
        self, features: Float[Tensor, "batch frame dim"]
    ) -> tuple[Float[Tensor, "batch frame bin"], Float[Tensor, "batch frame bin"]]:
        """Return the real and the imaginary part of each frame's spectrum."""
        hidden = self.backbone(features)
        # In float32 under autocast too: bfloat16 would leave 8 bits of each phase.
        with torch.autocast(hidden.device.type, enabled=False):
            log_magnitude, phase = self.last(self.last_norm(hidden.to(self.last.weight.dtype))).chunk(2, dim=-1)
            magnitude = log_magnitude.clamp_max(math.log(MAX_MAGNITUDE)).exp()
            return magnitude * phase.cos(), magnitude * phase.sin()

    def overlap_add(self, segments: Float[Tensor, "batch frame window"]) -> Float[Tensor, "batch time"]:
        """Return the wave of the inverse transforms of all frames."""
        return windowed_overlap_add(segments, self.window, self.hop_samples)


class ConvNextBlock(nn.Module):
    """A depthwise convolution over time and a feed-forward block, scaled, with a skip connection.

    Source: Liu et al. 2022, ConvNeXt (arXiv:2201.03545).
    """

    def __init__(self, channels: int, hidden_channels: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.up = nn.Linear(channels, hidden_channels)
        self.down = nn.Linear(hidden_channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), scale))

    def forward(self, hidden: Float[Tensor, "batch frame channel"]) -> Float[Tensor, "batch frame channel"]:
        """Return the input plus what the block adds."""
        normed = self.norm(self.depthwise(hidden.transpose(1, 2)).transpose(1, 2))
        return hidden + self.scale * self.down(F.gelu(self.up(normed)))


def windowed_overlap_add(
    segments: Float[Tensor, "batch step window"], window: Float[Tensor, " window"], hop_samples: int
) -> Float[Tensor, "batch time"]:
    """Return the inverse short-time Fourier transform from its inverse transforms: a hop of samples per step."""
    steps = segments.shape[1]
    left = (len(window) - hop_samples) // 2
    kept = slice(left, left + steps * hop_samples)
    wave = overlap_add(segments * window, hop_samples)
    weights = overlap_add(window.square().expand(1, steps, -1), hop_samples)
    return wave[:, kept] / weights[:, kept]


def overlap_add(segments: Float[Tensor, "batch step window"], hop_samples: int) -> Float[Tensor, "batch time"]:
    """Return the sum of segments that start one hop apart; the window is a whole number of hops.

    It sums shifted copies in a fixed order, forward and backward: torch.istft adds by index, whose order is not fixed
    on CUDA.
    """
    batch, steps, window_samples = segments.shape
    count = window_samples // hop_samples
    hops = segments.view(batch, steps, count, hop_samples)
    total = F.pad(hops[:, :, 0], (0, 0, 0, count - 1))
    for i in range(1, count):
        total = total + F.pad(hops[:, :, i], (0, 0, i, count - 1 - i))
    return total.flatten(1)
