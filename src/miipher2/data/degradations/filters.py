"""Linear degradations without delay: rooms and band limits."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from miipher2.audio.levels import power
from miipher2.audio.resample import resample
from miipher2.config.schema_data import SAMPLE_RATE_HZ, BandLimitConfig, LowPassConfig, ResamplingConfig, RoomConfig
from miipher2.data.degradations.transform import Transform, Wave, draw_choice, draw_integer, draw_uniform, fft_size
from miipher2.data.pools import Pools


@dataclass(frozen=True)
class Room(Transform[RoomConfig]):
    """Reverberation at the same level; the direct sound stays in place."""

    pool: ClassVar[str | None] = "rooms"
    response: int

    @classmethod
    def draw(cls, rng: np.random.Generator, config: RoomConfig, pools: Pools, samples: int) -> "Room":
        """Draw any response of the pool."""
        return cls(int(rng.random() * len(pools.rooms)))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Convolve with the response, and cut to the length of `wave`."""
        response = pools.read_response(self.response)
        size = fft_size(len(wave) + len(response) - 1)
        reverberant = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)[: len(wave)]
        gain = np.sqrt(power(wave) / max(power(reverberant.astype(np.float32)), 1e-30))
        return (reverberant * gain).astype(np.float32)


@dataclass(frozen=True)
class BandLimit(Transform[BandLimitConfig]):
    """A steep low-pass, as of a lower sample rate."""

    cutoff_hz: float

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Pass everything below the cutoff, and nothing from a tenth above it."""
        size = fft_size(len(wave) + 1024)
        frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
        transition = np.clip((frequencies / self.cutoff_hz - 1.0) / 0.1, 0.0, 1.0)
        response = (0.5 + 0.5 * np.cos(np.pi * transition)).astype(np.float32)
        return np.fft.irfft(np.fft.rfft(wave, size) * response, size)[: len(wave)].astype(np.float32)


@dataclass(frozen=True)
class Resampling(Transform[ResamplingConfig]):
    """A detour over another sample rate; from 16 kHz up nothing is lost."""

    rate_hz: int

    @classmethod
    def draw(cls, rng: np.random.Generator, config: ResamplingConfig, pools: Pools, samples: int) -> "Resampling":
        """Draw one of the rates."""
        return cls(int(draw_choice(rng, config.rates_hz)))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Resample to the rate and back."""
        if self.rate_hz >= SAMPLE_RATE_HZ:
            return wave.copy()
        low = resample(wave, SAMPLE_RATE_HZ, self.rate_hz)
        restored = resample(low, self.rate_hz, SAMPLE_RATE_HZ)[: len(wave)]
        return np.pad(restored, (0, len(wave) - len(restored)))


@dataclass(frozen=True)
class LowPass(Transform[LowPassConfig]):
    """A soft low-pass: a Butterworth magnitude, 3 dB down at the cutoff, then 6 dB per octave times its order.

    Its phase is zero, so that nothing is delayed.
    """

    cutoff_hz: float
    order: int

    @classmethod
    def draw(cls, rng: np.random.Generator, config: LowPassConfig, pools: Pools, samples: int) -> "LowPass":
        """Draw the cutoff and the order."""
        return cls(draw_uniform(rng, config.cutoff_hz), draw_integer(rng, config.order))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Filter, with silence on both sides."""
        size = fft_size(len(wave) + 1024)
        frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE_HZ)
        response = 1 / np.sqrt(1 + (frequencies / self.cutoff_hz) ** (2 * self.order))
        return np.fft.irfft(np.fft.rfft(wave, size) * response, size)[: len(wave)].astype(np.float32)
