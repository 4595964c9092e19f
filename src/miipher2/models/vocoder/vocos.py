"""Vocos: ConvNeXt blocks at 50 frames a second, and one inverse Fourier transform up to the wave."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from miipher2.models.vocoder.generator import Generator

KERNEL = 7  # of every convolution, in frames, as in Vocos
LARGEST_MAGNITUDE = 100.0  # of a bin, as in Vocos: keeps the exponential from running away


class Vocos(Generator):
    """Vocos: an order of magnitude less work than HiFi-GAN, since nothing but the last step runs above 50 Hz.

    Args:
        dim: size of a feature.
        sample_rate_hz: of the wave.
        channels: between the blocks.
        hidden_channels: within a block.
        blocks: number of ConvNeXt blocks.
        window_frames: length of the Fourier window, in frames (the hop is one); 4 as in Vocos.

    Raises:
        ValueError: the window is shorter than 2 frames, so that windows would not overlap, or of odd length.

    Source: Siuzdak 2023, Vocos (arXiv:2306.00814).
    """

    window: Tensor

    def __init__(
        self, dim: int, sample_rate_hz: int, channels: int, hidden_channels: int, blocks: int, window_frames: int
    ) -> None:
        super().__init__(sample_rate_hz)
        self.window_frames, self.window_samples = window_frames, window_frames * self.hop_samples
        if window_frames < 2 or self.window_samples % 2:
            raise ValueError(
                f"window_frames={window_frames} are {self.window_samples} samples at sample_rate_hz={sample_rate_hz}; "
                "should be 2 frames or more, and an even number of samples"
            )
        self.first = nn.Conv1d(dim, channels, KERNEL, padding=KERNEL // 2)
        self.first_norm = nn.LayerNorm(channels, eps=1e-6)
        self.blocks = nn.ModuleList(ConvNextBlock(channels, hidden_channels, 1 / blocks) for _ in range(blocks))
        self.last_norm = nn.LayerNorm(channels, eps=1e-6)
        self.last = nn.Linear(channels, self.window_samples + 2)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                assert module.bias is not None
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.register_buffer("window", torch.hann_window(self.window_samples), persistent=False)

    @property
    def halo_frames(self) -> int:
        """Return how many frames on each side of a frame change its samples: what a chunk must bring with it."""
        side = self.window_samples - self.hop_samples
        reach = -(-(side - side // 2) // self.hop_samples)
        return KERNEL // 2 * (1 + len(self.blocks)) + reach

    def forward(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch time"]:
        """Return waves of exactly `hop_samples` for each frame."""
        return self._to_wave(torch.complex(*self.spectrum(features)))

    def spectrum(
        self, features: Float[Tensor, "batch frame dim"]
    ) -> tuple[Float[Tensor, "batch frame bin"], Float[Tensor, "batch frame bin"]]:
        """Return the real and the imaginary part of each frame's spectrum."""
        hidden = self.first_norm(self.first(features.transpose(1, 2)).transpose(1, 2))
        for block in self.blocks:
            hidden = block(hidden)
        # In float32 under autocast too: bfloat16 would leave 8 bits of each phase.
        with torch.autocast(hidden.device.type, enabled=False):
            log_magnitude, phase = self.last(self.last_norm(hidden.to(self.last.weight.dtype))).chunk(2, dim=-1)
            magnitude = log_magnitude.clamp_max(math.log(LARGEST_MAGNITUDE)).exp()
            return magnitude * phase.cos(), magnitude * phase.sin()

    def join(self, pieces: Float[Tensor, "batch frame window"]) -> Float[Tensor, "batch time"]:
        """Return windowed pieces joined to a wave, the hop's share of each window kept at both ends."""
        frames = pieces.shape[1]
        weights = self.window.square().expand(1, frames, -1)
        left = (self.window_samples - self.hop_samples) // 2
        kept = slice(left, left + frames * self.hop_samples)
        pieces = pieces * self.window
        return overlap_add(pieces, self.hop_samples)[:, kept] / overlap_add(weights, self.hop_samples)[:, kept]

    def _to_wave(self, spectrum: Tensor) -> Float[Tensor, "batch time"]:
        """Return the inverse short-time Fourier transform."""
        return self.join(torch.fft.irfft(spectrum, n=self.window_samples))


class ConvNextBlock(nn.Module):
    """A depthwise convolution over time and a feed-forward block, scaled and added to what came in.

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
        """Return as many frames as came in."""
        seen = self.norm(self.depthwise(hidden.transpose(1, 2)).transpose(1, 2))
        return hidden + self.scale * self.down(F.gelu(self.up(seen)))


def overlap_add(pieces: Float[Tensor, "batch frame window"], hop_samples: int) -> Float[Tensor, "batch time"]:
    """Return the sum of pieces that begin a hop after each other; the window is a whole number of hops.

    Sums of shifted copies, in a fixed order, forward and backward: torch.istft adds by index, whose order is not fixed
    on CUDA.
    """
    batch, frames, window_samples = pieces.shape
    count = window_samples // hop_samples
    hops = pieces.view(batch, frames, count, hop_samples)
    total = F.pad(hops[:, :, 0], (0, 0, 0, count - 1))
    for i in range(1, count):
        total = total + F.pad(hops[:, :, i], (0, 0, i, count - 1 - i))
    return total.flatten(1)
