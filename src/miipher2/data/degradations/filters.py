"""What changes the spectrum of speech and nothing else: rooms and band limits, all without delay."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from miipher2.audio.levels import power
from miipher2.audio.resample import resample
from miipher2.data.degradations.transform import Range, Transform, Wave, draw_choice, draw_uniform, draw_whole, fft_size
from miipher2.data.pools import RATE_HZ, Pools

LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 4000, 48000


@dataclass(frozen=True)
class Room(Transform):
    """Speech in a room, as loud as it was without; its direct sound stays where it was."""

    pool: ClassVar[str | None] = "rooms"
    response: int

    @classmethod
    def draw(cls, rng: np.random.Generator, pools: Pools, samples: int) -> "Room":
        """Take any response of the pool."""
        return cls(int(rng.random() * len(pools.rooms)))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Convolve with the response, and cut to the length of `wave`."""
        response = pools.response(self.response)
        size = fft_size(len(wave) + len(response) - 1)
        reverberant = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)[: len(wave)]
        gain = np.sqrt(power(wave) / max(power(reverberant.astype(np.float32)), 1e-30))
        return (reverberant * gain).astype(np.float32)


@dataclass(frozen=True)
class BandLimit(Transform):
    """A steep low-pass, as of a lower sample rate."""

    cutoff_hz: float

    @classmethod
    def draw(cls, rng: np.random.Generator, pools: Pools, samples: int, cutoff_hz: Range) -> "BandLimit":
        """Take a cutoff in Hz, uniform in a range."""
        return cls(draw_uniform(rng, "band_limit.cutoff_hz", cutoff_hz, 1, RATE_HZ / 2))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Let through all below the cutoff, and nothing from a tenth above it."""
        size = fft_size(len(wave) + 1024)
        frequencies = np.fft.rfftfreq(size, 1 / RATE_HZ)
        beyond = np.clip((frequencies / self.cutoff_hz - 1.0) / 0.1, 0.0, 1.0)
        response = (0.5 + 0.5 * np.cos(np.pi * beyond)).astype(np.float32)
        return np.fft.irfft(np.fft.rfft(wave, size) * response, size)[: len(wave)].astype(np.float32)


@dataclass(frozen=True)
class Resampling(Transform):
    """Another sample rate, there and back; from 16 kHz up nothing is lost."""

    rate_hz: int

    @classmethod
    def draw(cls, rng: np.random.Generator, pools: Pools, samples: int, rates_hz: Any) -> "Resampling":
        """Take one of the rates."""
        return cls(int(draw_choice(rng, "resampling.rates_hz", rates_hz, range(LOWEST_RATE_HZ, HIGHEST_RATE_HZ + 1))))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Resample twice."""
        if self.rate_hz >= RATE_HZ:
            return wave.copy()
        back = resample(resample(wave, RATE_HZ, self.rate_hz), self.rate_hz, RATE_HZ)[: len(wave)]
        return np.pad(back, (0, len(wave) - len(back)))


@dataclass(frozen=True)
class LowPass(Transform):
    """A soft low-pass: a Butterworth filter's magnitude, 3 dB down at the cutoff, then 6 dB an octave times its order.

    Its phase is zero, so that nothing is shifted.
    """

    cutoff_hz: float
    order: int

    @classmethod
    def draw(
        cls, rng: np.random.Generator, pools: Pools, samples: int, cutoff_hz: Range, order: Range = (1, 8)
    ) -> "LowPass":
        """Take a cutoff in Hz, uniform in a range, and a whole order in a range."""
        cutoff = draw_uniform(rng, "low_pass.cutoff_hz", cutoff_hz, 1, RATE_HZ / 2)
        return cls(cutoff, draw_whole(rng, "low_pass.order", order, 1, 16))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Filter, with silence on both sides."""
        size = fft_size(len(wave) + 1024)
        frequencies = np.fft.rfftfreq(size, 1 / RATE_HZ)
        response = 1 / np.sqrt(1 + (frequencies / self.cutoff_hz) ** (2 * self.order))
        return np.fft.irfft(np.fft.rfft(wave, size) * response, size)[: len(wave)].astype(np.float32)
