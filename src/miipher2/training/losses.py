"""What training minimises: distances between features, between waves, and the two sides of the adversarial game."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from miipher2.audio.spectrogram import MELS, LogMel

# A discriminator's view of a wave: its score, and its feature maps.
View = tuple[Tensor, list[Tensor]]


def feature_loss(
    predicted: Float[Tensor, "batch frame dim"],
    target: Float[Tensor, "batch frame dim"],
    valid: Bool[Tensor, "batch frame"] | None = None,
    *,
    l1: float = 1.0,
    l2: float = 1.0,
    spectral_convergence: float = 1.0,
    average: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, ""]:
    """Return L1 + L2 + spectral convergence between two feature sequences, over the valid frames.

    L1 and L2 are means: their sums drown the last term.

    Args:
        valid: which frames count; None: all.
        l1, l2, spectral_convergence: weights of the three terms.
        average: gives a value's mean over all processes, where a batch is divided among them: the mean of their losses
            is then that of the whole batch, though each has another number of frames and another power.

    Source: Koizumi et al. 2023, Miipher (arXiv:2303.01664).
    """
    difference, target = predicted.float() - target.float(), target.float()
    values = difference.numel()
    counted: Tensor | int = values
    if valid is not None:
        difference = difference.masked_fill(~valid[..., None], 0)
        target = target.masked_fill(~valid[..., None], 0)
        counted = valid.sum() * difference.shape[-1]
    absolute, squared = difference.abs().sum(), difference.square().sum()
    power = target.square().sum()
    if average is not None:
        frames_and_power = torch.stack([torch.zeros_like(power) + counted, power])
        counted, power = average(frames_and_power)
    power = power.clamp_min(torch.finfo(torch.float32).tiny)
    return l1 * absolute / counted + l2 * squared / counted + spectral_convergence * squared / power


class MelDistance(nn.Module):
    """The mean absolute difference of two waves' log-mel spectrograms; its arguments are those of `LogMel`.

    Source: Kong et al. 2020, HiFi-GAN (arXiv:2010.05646).
    """

    def __init__(self, sample_rate_hz: int, window_samples: int | None = None, mels: int = MELS) -> None:
        super().__init__()
        self.log_mel = LogMel(sample_rate_hz, window_samples, mels)

    def forward(self, fake: Float[Tensor, "batch time"], real: Float[Tensor, "batch time"]) -> Float[Tensor, ""]:
        """Return the distance.

        Raises:
            ValueError: the waves are shorter than about half a window.
        """
        return (self.log_mel(fake) - self.log_mel(real)).abs().mean()


def discriminator_loss(real: Sequence[View], fake: Sequence[View]) -> Float[Tensor, ""]:
    """Return what the discriminators minimise: real scores should be 1, fake ones 0; summed over discriminators.

    Source: Mao et al. 2017, LSGAN (arXiv:1611.04076).
    """
    terms = [
        (score_real.float() - 1).square().mean() + score_fake.float().square().mean()
        for (score_real, _), (score_fake, _) in zip(real, fake, strict=True)
    ]
    return torch.stack(terms).sum()


def generator_adversarial_loss(fake: Sequence[View]) -> Float[Tensor, ""]:
    """Return what the generator minimises: fake scores should be 1; summed over discriminators."""
    return torch.stack([(score.float() - 1).square().mean() for score, _ in fake]).sum()


def feature_matching_loss(real: Sequence[View], fake: Sequence[View]) -> Float[Tensor, ""]:
    """Return the mean absolute difference of feature maps, summed over maps and discriminators; real is held fixed.

    Source: Kong et al. 2020, HiFi-GAN (arXiv:2010.05646).
    """
    terms = [
        (map_fake.float() - map_real.detach().float()).abs().mean()
        for (_, maps_real), (_, maps_fake) in zip(real, fake, strict=True)
        for map_real, map_fake in zip(maps_real, maps_fake, strict=True)
    ]
    return torch.stack(terms).sum()
