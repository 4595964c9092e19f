"""Additive degradations, mixed at an SNR over the active speech: noise, babble, coloured noise, hum."""

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from miipher2.audio.levels import active_samples, power
from miipher2.audio.resample import resample
from miipher2.config.schema_data import (
    MAX_BABBLE_VOICES,
    SAMPLE_RATE_HZ,
    BabbleConfig,
    ColourConfig,
    HumConfig,
    NoiseConfig,
)
from miipher2.data.degradations.transform import Transform, Wave, draw_integer, draw_seed, draw_uniform, fft_size
from miipher2.data.pools import Pools
from miipher2.rng import stream


@dataclass(frozen=True)
class Noise(Transform[NoiseConfig]):
    """An excerpt of a noise of the pool."""

    pool: ClassVar[str | None] = "noises"
    noise: int
    start_seconds: float
    snr_db: float

    @classmethod
    def draw(cls, rng: np.random.Generator, config: NoiseConfig, pools: Pools, samples: int) -> "Noise":
        """Draw any noise, a start from which it is long enough where it can be, and the SNR."""
        index = int(rng.random() * len(pools.noises))
        seconds = pools.noises.row(index).seconds if len(pools.noises) else 0.0
        spare = seconds - samples / SAMPLE_RATE_HZ
        start = float(rng.random()) * (spare if spare > 0 else seconds)
        return cls(index, start, draw_uniform(rng, config.snr_db))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Add the excerpt; a silent one adds nothing."""
        return mix(wave, pools.read_noise(self.noise, self.start_seconds, len(wave)), self.snr_db)


@dataclass(frozen=True)
class Babble(Transform[BabbleConfig]):
    """Several voices of the training split at once, each from its own start and at its own level."""

    pool: ClassVar[str | None] = "voices"
    voices: tuple[int, ...]
    starts: tuple[float, ...]  # relative to the utterance's length
    levels_db: tuple[float, ...]  # relative to the loudest possible voice
    snr_db: float

    @classmethod
    def draw(cls, rng: np.random.Generator, config: BabbleConfig, pools: Pools, samples: int) -> "Babble":
        """Draw the number of voices, any utterances, starts and levels, and the SNR."""
        count, values = draw_integer(rng, config.voices), rng.random((3, MAX_BABBLE_VOICES))
        voices = tuple(int(value * len(pools.voices)) for value in values[0, :count])
        starts = tuple(float(value) for value in values[1, :count])
        levels = tuple(float(-6 * value) for value in values[2, :count])
        return cls(voices, starts, levels, draw_uniform(rng, config.snr_db))

    def __post_init__(self) -> None:
        """Turn the lists of JSON into tuples."""
        for name in ("voices", "starts", "levels_db"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Add the voices; those of one sample rate are resampled as one."""
        by_rate: dict[int, list[np.ndarray]] = defaultdict(list)
        for index, start, level_db in zip(self.voices, self.starts, self.levels_db, strict=True):
            voice, rate_hz = pools.read_voice(index, start, len(wave))
            mean_square = power(voice)
            if mean_square > 0:
                by_rate[rate_hz].append(voice * np.float32(10 ** (level_db / 20) / np.sqrt(mean_square)))
        babble = np.zeros(len(wave), dtype=np.float32)
        for rate_hz, voices in sorted(by_rate.items()):
            babble += resample(np.stack(voices).sum(axis=0), rate_hz, SAMPLE_RATE_HZ)[: len(wave)]
        return mix(wave, babble, self.snr_db)


@dataclass(frozen=True)
class Colour(Transform[ColourConfig]):
    """Stationary noise whose power falls with frequency: slope 0 is white, 1 pink (3 dB per octave), 2 brown."""

    slope: float
    seed: int
    snr_db: float

    @classmethod
    def draw(cls, rng: np.random.Generator, config: ColourConfig, pools: Pools, samples: int) -> "Colour":
        """Draw the slope, the noise's seed and the SNR."""
        return cls(draw_uniform(rng, config.slope), draw_seed(rng), draw_uniform(rng, config.snr_db))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Add the noise that the seed gives."""
        size = fft_size(len(wave))
        white = stream(self.seed, "colour").standard_normal(size, dtype=np.float32)
        return mix(wave, colour_noise(white, self.slope)[: len(wave)], self.snr_db)


@dataclass(frozen=True)
class Hum(Transform[HumConfig]):
    """Mains hum: a tone of 50 or 60 Hz with its harmonics."""

    mains_hz: float
    harmonics: int
    seed: int
    snr_db: float

    @classmethod
    def draw(cls, rng: np.random.Generator, config: HumConfig, pools: Pools, samples: int) -> "Hum":
        """Draw 50 or 60 Hz within 0.2 %, the number of harmonics, their seed and the SNR."""
        mains_hz = (50.0, 60.0)[int(2 * rng.random())] * float(rng.uniform(0.998, 1.002))
        return cls(mains_hz, draw_integer(rng, config.harmonics), draw_seed(rng), draw_uniform(rng, config.snr_db))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Add the tone with the strengths and phases that the seed gives."""
        rng = stream(self.seed, "hum")
        numbers = np.arange(1, self.harmonics + 1)
        strengths = rng.uniform(0.3, 1.0, self.harmonics) / numbers ** rng.uniform(0.5, 1.2)
        phases = np.exp(2j * np.pi * rng.random(self.harmonics))
        # Harmonics are powers of one rotation: Horner's rule instead of a sine for each.
        rotation = np.exp(2j * np.pi * self.mains_hz / SAMPLE_RATE_HZ * np.arange(len(wave)))
        tone = np.zeros(len(wave), dtype=np.complex128)
        for coefficient in (strengths * phases)[::-1]:
            tone = (tone + coefficient) * rotation
        return mix(wave, np.ascontiguousarray(tone.imag).astype(np.float32), self.snr_db)


def mix(wave: Wave, noise: Wave, snr_db: float) -> Wave:
    """Return speech with noise at an SNR over the active speech; silent noise adds nothing."""
    is_speech = active_samples(wave)
    # Noise between the words, such as a single click, is not raised more than 10 dB over its own level.
    noise_power = max(power(noise[is_speech]), power(noise) / 10)
    if noise_power == 0.0:
        return wave.copy()
    gain = np.sqrt(power(wave[is_speech]) / noise_power * 10 ** (-snr_db / 10))
    return (wave + noise * gain).astype(np.float32)


def colour_noise(white: Float[np.ndarray, "time"], slope: float) -> Wave:
    """Filter white noise so that its power falls as frequency to the power `slope`, from 20 Hz up."""
    frequencies = np.fft.rfftfreq(len(white), 1 / SAMPLE_RATE_HZ)
    gains = np.maximum(frequencies, 20.0) ** (-slope / 2)
    return np.fft.irfft(np.fft.rfft(white) * gains * (frequencies > 0), len(white)).astype(np.float32)
