"""The discriminators: each looks at a wave and returns its view, a score and the feature maps on the way to it."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

SLOPE = 0.1  # of every LeakyReLU, as in HiFi-GAN
Norm = Callable[[nn.Module], nn.Module]
View = tuple[Tensor, list[Tensor]]


class Discriminators(nn.Module):
    """Period, scale and resolution discriminators, joined: one list of views.

    Args:
        periods: in samples; one period discriminator each.
        scales: number of scale discriminators, each at half the rate of the one before.
        resolutions: window lengths in samples; one spectrogram discriminator each.
        channels: of the first layer, 32 in the papers; later layers have multiples of it.
        max_channels: no layer has more; 1024 in the papers.
        input_scale: multiplies the wave: at the level of quiet speech a discriminator stays at chance.

    Raises:
        ValueError: there is no discriminator at all.
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

    def forward(self, wave: Float[Tensor, "batch time"]) -> list[View]:
        """Return every discriminator's score and feature maps."""
        wave = wave * self.input_scale
        return [view for part in self.parts for view in part(wave)]


class MultiPeriodDiscriminator(nn.Module):
    """One discriminator for each period, each over the wave folded to rows of that many samples.

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

    def forward(self, wave: Float[Tensor, "batch time"]) -> list[View]:
        """Return one view for each period."""
        views = []
        for period, stack in zip(self.periods, self.stacks, strict=True):
            padded = reflect_pad(wave, 0, -wave.shape[1] % period)
            views.append(stack(padded.view(len(wave), 1, -1, period)))
        return views


class MultiScaleDiscriminator(nn.Module):
    """Discriminators over the wave and its averages, the first with spectral norm.

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
                    # Groups of fewer than 4 channels are slow and save nothing; at the papers' widths none is.
                    groups=math.gcd(groups, max(widths[i] // 4, 1), widths[i + 1]),
                )
                for i, (kernel, stride, groups) in enumerate(shapes)
            ]
            norm: Norm = spectral_norm if scale == 0 else weight_norm
            self.stacks.append(_Stack(layers, nn.Conv1d(widths[-1], 1, 3, padding=1), norm))

    def forward(self, wave: Float[Tensor, "batch time"]) -> list[View]:
        """Return one view for each scale."""
        views = []
        for scale, stack in enumerate(self.stacks):
            wave = F.avg_pool1d(wave[:, None], 4, 2, padding=2).squeeze(1) if scale else wave
            views.append(stack(wave[:, None]))
        return views


class MultiResolutionDiscriminator(nn.Module):
    """One discriminator for each window length, over the magnitude spectrogram with a quarter of it as hop.

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

    def forward(self, wave: Float[Tensor, "batch time"]) -> list[View]:
        """Return one view for each window length."""
        views = []
        for index, (window_samples, stack) in enumerate(zip(self.resolutions, self.stacks, strict=True)):
            side = (window_samples - window_samples // 4) // 2
            with torch.autocast(wave.device.type, enabled=False):
                # Unfolded, and not by torch.stft: the backward of its overlapping view adds by index on CUDA.
                frames = reflect_pad(wave.float(), side, side).unfold(-1, window_samples, window_samples // 4)
                magnitude = torch.fft.rfft(frames * self.get_buffer(f"window_{index}")).abs()
            views.append(stack(magnitude.transpose(1, 2)[:, None]))
        return views


class _Stack(nn.Module):
    """Convolutions with a LeakyReLU after each, and a last one that scores."""

    def __init__(self, layers: Sequence[nn.Module], last: nn.Module, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.ModuleList(norm(layer) for layer in layers)
        self.last = norm(last)

    def forward(self, hidden: Tensor) -> View:
        maps = []
        for layer in self.layers:
            hidden = F.leaky_relu(layer(hidden), SLOPE)
            maps.append(hidden)
        hidden = self.last(hidden)
        return hidden.flatten(1), [*maps, hidden]


def reflect_pad(wave: Float[Tensor, "batch time"], left: int, right: int) -> Float[Tensor, "batch padded"]:
    """Return what `F.pad(mode="reflect")` gives, whose backward is not deterministic on CUDA.

    Raises:
        ValueError: the wave is too short to be reflected that far.
    """
    samples = wave.shape[1]
    if max(left, right) >= samples:
        raise ValueError(f"a wave of {samples} samples; should be longer than its padding, {max(left, right)}")
    before = wave[:, 1 : left + 1].flip(1)
    after = wave[:, samples - 1 - right : samples - 1].flip(1)
    return torch.cat([before, wave, after], 1)
