"""The discriminators of a vocoder: each returns a score of a wave and the feature maps that lead to it."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

SLOPE = 0.1  # of every LeakyReLU, as in HiFi-GAN
Norm = Callable[[nn.Module], nn.Module]
# A score and the feature maps that lead to it.
Output = tuple[Tensor, list[Tensor]]


class Discriminators(nn.Module):
    """Multi-period, multi-scale and multi-resolution discriminators as one.

    Args:
        periods: one discriminator each, in samples.
        scales: number of scale discriminators, each at half the rate of the one before.
        resolutions: one discriminator each, window lengths in samples.
        channels: of the first layer, 32 in the papers; later layers have multiples of it.
        max_channels: the limit of any layer; 1024 in the papers.
        input_scale: factor on the wave; at the level of quiet speech a discriminator does not learn.

    Raises:
        ValueError: there is no discriminator.
    """

    def __init__(
        self,
        periods: Sequence[int],
        scales: int,
        resolutions: Sequence[int],
        channels: int,
        max_channels: int = 1024,
        input_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not periods and not scales and not resolutions:
            raise ValueError("periods, scales and resolutions are all empty; should name at least one discriminator")
        self.input_scale = input_scale
        self.parts = nn.ModuleList()
        if periods:
            self.parts.append(MultiPeriodDiscriminator(periods, channels, max_channels))
        if scales:
            self.parts.append(MultiScaleDiscriminator(scales, channels, max_channels))
        if resolutions:
            self.parts.append(MultiResolutionDiscriminator(resolutions, channels, max_channels))

    def forward(self, wave: Float[Tensor, "batch time"]) -> list[Output]:
        """Return the output of every discriminator."""
        wave = wave * self.input_scale
        return [output for part in self.parts for output in part(wave)]


class MultiPeriodDiscriminator(nn.Module):
    """One discriminator per period, on the wave folded into rows of that many samples.

    Source: Kong et al. 2020, HiFi-GAN (arXiv:2010.05646).
    """

    def __init__(self, periods: Sequence[int], channels: int, max_channels: int = 1024) -> None:
        super().__init__()
        self.periods = tuple(periods)
        widths = [1, *(min(channels * factor, max_channels) for factor in (1, 4, 16, 32, 32))]
        self.stacks = nn.ModuleList()
        for _ in self.periods:
            layers: list[nn.Module] = [
                nn.Conv2d(widths[i], widths[i + 1], (5, 1), (stride, 1), padding=(2, 0))
                for i, stride in enumerate((3, 3, 3, 3, 1))
            ]
            self.stacks.append(_Stack(layers, nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)), weight_norm))

    def forward(self, wave: Float[Tensor, "batch time"]) -> list[Output]:
        """Return one output per period."""
        outputs = []
        for period, stack in zip(self.periods, self.stacks, strict=True):
            padded = reflect_pad(wave, 0, -wave.shape[1] % period)
            outputs.append(stack(padded.view(len(wave), 1, -1, period)))
        return outputs


class MultiScaleDiscriminator(nn.Module):
    """Discriminators on the wave and its averages, the first with spectral norm.

    Source: Kumar et al. 2019, MelGAN (arXiv:1910.06711); as in HiFi-GAN.
    """

    def __init__(self, scales: int, channels: int, max_channels: int = 1024) -> None:
        super().__init__()
        widths = [1, *(min(channels * factor, max_channels) for factor in (4, 4, 8, 16, 32, 32, 32))]
        shapes = ((15, 1, 1), (41, 2, 4), (41, 2, 16), (41, 4, 16), (41, 4, 16), (41, 1, 16), (5, 1, 1))
        self.stacks = nn.ModuleList()
        for scale in range(scales):
            layers: list[nn.Module] = [
                nn.Conv1d(
                    widths[i],
                    widths[i + 1],
                    kernel,
                    stride,
                    padding=kernel // 2,
                    # Groups of fewer than 4 channels are slow and save nothing; the papers' widths have none.
                    groups=math.gcd(groups, max(widths[i] // 4, 1), widths[i + 1]),
                )
                for i, (kernel, stride, groups) in enumerate(shapes)
            ]
            norm: Norm = spectral_norm if scale == 0 else weight_norm
            self.stacks.append(_Stack(layers, nn.Conv1d(widths[-1], 1, 3, padding=1), norm))

    def forward(self, wave: Float[Tensor, "batch time"]) -> list[Output]:
        """Return one output per scale."""
        outputs = []
        for scale, stack in enumerate(self.stacks):
            wave = F.avg_pool1d(wave[:, None], 4, 2, padding=2).squeeze(1) if scale else wave
            outputs.append(stack(wave[:, None]))
        return outputs


class MultiResolutionDiscriminator(nn.Module):
    """One discriminator per window length, on the magnitude spectrogram with a hop of a quarter window.

    Source: Jang et al. 2021, UnivNet (arXiv:2106.07889).
    """

    def __init__(self, resolutions: Sequence[int], channels: int, max_channels: int = 1024) -> None:
        super().__init__()
        self.resolutions = tuple(resolutions)
        width = min(channels, max_channels)
        self.stacks = nn.ModuleList()
        for index, window_samples in enumerate(self.resolutions):
            self.register_buffer(f"window_{index}", torch.hann_window(window_samples), persistent=False)
            layers: list[nn.Module] = [nn.Conv2d(1, width, (9, 3), padding=(4, 1))]
            layers += [nn.Conv2d(width, width, (9, 3), (2, 1), padding=(4, 1)) for _ in range(3)]
            layers += [nn.Conv2d(width, width, (3, 3), padding=1)]
            self.stacks.append(_Stack(layers, nn.Conv2d(width, 1, 3, padding=1), weight_norm))

    def forward(self, wave: Float[Tensor, "batch time"]) -> list[Output]:
        """Return one output per window length."""
        outputs = []
        for index, (window_samples, stack) in enumerate(zip(self.resolutions, self.stacks, strict=True)):
            side = (window_samples - window_samples // 4) // 2
            with torch.autocast(wave.device.type, enabled=False):
                # Not torch.stft: the backward of its overlapping view adds by index on CUDA, in no fixed order.
                frames = reflect_pad(wave.float(), side, side).unfold(-1, window_samples, window_samples // 4)
                magnitude = torch.fft.rfft(frames * self.get_buffer(f"window_{index}")).abs()
            outputs.append(stack(magnitude.transpose(1, 2)[:, None]))
        return outputs


class _Stack(nn.Module):
    """Convolutions with a LeakyReLU each, and a last one that gives the score."""

    def __init__(self, layers: Sequence[nn.Module], last: nn.Module, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.ModuleList(norm(layer) for layer in layers)
        self.last = norm(last)

    def forward(self, hidden: Tensor) -> Output:
        maps = []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), SLOPE)
            maps.append(hidden)
        hidden = self.last(hidden)
        return hidden.flatten(1), [*maps, hidden]


def reflect_pad(wave: Float[Tensor, "batch time"], left: int, right: int) -> Float[Tensor, "batch padded"]:
    """Pad as `F.pad(mode="reflect")` does, whose backward is not deterministic on CUDA.

    Raises:
        ValueError: the wave is not longer than its padding.
    """
    samples = wave.shape[1]
    if max(left, right) >= samples:
        raise ValueError(f"a wave of {samples} samples; should be longer than its padding, {max(left, right)}")
    before = wave[:, 1 : left + 1].flip(1)
    after = wave[:, samples - 1 - right : samples - 1].flip(1)
    return torch.cat([before, wave, after], 1)
