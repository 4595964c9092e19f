"""What is added to speech, at a ratio of speech to noise over the active speech: noise, babble, colour, hum."""

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from miipher2.audio.levels import active, power
from miipher2.audio.resample import resample
from miipher2.data.degradations.transform import Range, Transform, Wave, draw_seed, draw_uniform, draw_whole, fft_size
from miipher2.data.pools import RATE_HZ, Pools
from miipher2.rng import stream

MOST_VOICES = 16


@dataclass(frozen=True)
class Noise(Transform):
    """Noise of the pool from a place in its file on."""

    pool: ClassVar[str | None] = "noises"
    noise: int
    start_seconds: float
    snr_db: float

    @classmethod
    def draw(cls, rng: np.random.Generator, pools: Pools, samples: int, snr_db: Range) -> "Noise":
        """Take any noise, any start from which it lasts if it is long enough, and a ratio in dB, uniform in a range."""
        index = int(rng.random() * len(pools.noises))
        seconds = pools.noises.row(index).seconds if len(pools.noises) else 0.0
        spare = seconds - samples / RATE_HZ
        start = float(rng.random()) * (spare if spare > 0 else seconds)
        return cls(index, start, draw_uniform(rng, "noise.snr_db", snr_db, -100, 200))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Add the noise; a stretch of it that is silent adds nothing."""
        return add(wave, pools.noise(self.noise, self.start_seconds, len(wave)), self.snr_db)


@dataclass(frozen=True)
class Babble(Transform):
    """Several voices of the training split at once, each from a place in its utterance on and at a level of its own."""

    pool: ClassVar[str | None] = "voices"
    voices: tuple[int, ...]
    starts: tuple[float, ...]  # as a part of the utterance
    levels_db: tuple[float, ...]  # against the loudest possible
    snr_db: float

    @classmethod
    def draw(
        cls, rng: np.random.Generator, pools: Pools, samples: int, snr_db: Range, voices: Range = (3, 8)
    ) -> "Babble":
        """Take a number of voices in a range, any utterances, and a ratio in dB, uniform in a range."""
        count, places = draw_whole(rng, "babble.voices", voices, 1, MOST_VOICES), rng.random((3, MOST_VOICES))
        chosen = tuple(int(place * len(pools.voices)) for place in places[0, :count])
        starts = tuple(float(place) for place in places[1, :count])
        levels = tuple(float(-6 * place) for place in places[2, :count])
        return cls(chosen, starts, levels, draw_uniform(rng, "babble.snr_db", snr_db, -100, 200))

    def __post_init__(self) -> None:
        """Take lists, as JSON gives them, for tuples."""
        for name in ("voices", "starts", "levels_db"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Add the voices, those of one rate resampled as one."""
        by_rate: dict[int, list[np.ndarray]] = defaultdict(list)
        for index, start, level_db in zip(self.voices, self.starts, self.levels_db, strict=True):
            voice, rate_hz = pools.voice(index, start, len(wave))
            loudness = power(voice)
            if loudness > 0:
                by_rate[rate_hz].append(voice * np.float32(10 ** (level_db / 20) / np.sqrt(loudness)))
        babble = np.zeros(len(wave), dtype=np.float32)
        for rate_hz, voices in sorted(by_rate.items()):
            babble += resample(np.stack(voices).sum(axis=0), rate_hz, RATE_HZ)[: len(wave)]
        return add(wave, babble, self.snr_db)


@dataclass(frozen=True)
class Colour(Transform):
    """Stationary noise whose power falls with frequency: slope 0 is white, 1 pink (3 dB an octave), 2 brown."""

    slope: float
    seed: int
    snr_db: float

    @classmethod
    def draw(
        cls, rng: np.random.Generator, pools: Pools, samples: int, snr_db: Range, slope: Range = (0, 2)
    ) -> "Colour":
        """Take a slope and a ratio in dB, each uniform in a range."""
        drawn = draw_uniform(rng, "colour.slope", slope, -2, 4)
        return cls(drawn, draw_seed(rng), draw_uniform(rng, "colour.snr_db", snr_db, -100, 200))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Add the noise, made of its seed."""
        size = fft_size(len(wave))
        white = stream(self.seed, "colour").standard_normal(size, dtype=np.float32)
        return add(wave, coloured(white, self.slope)[: len(wave)], self.snr_db)


@dataclass(frozen=True)
class Hum(Transform):
    """Mains hum: a tone of 50 or 60 Hz with its harmonics."""

    mains_hz: float
    harmonics: int
    seed: int
    snr_db: float

    @classmethod
    def draw(
        cls, rng: np.random.Generator, pools: Pools, samples: int, snr_db: Range, harmonics: Range = (4, 20)
    ) -> "Hum":
        """Take 50 or 60 Hz within 0.2 %, a number of harmonics in a range, and a ratio in dB, uniform in a range."""
        mains_hz = (50.0, 60.0)[int(2 * rng.random())] * float(rng.uniform(0.998, 1.002))
        count = draw_whole(rng, "hum.harmonics", harmonics, 1, 100)
        return cls(mains_hz, count, draw_seed(rng), draw_uniform(rng, "hum.snr_db", snr_db, -100, 200))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Add the tone; strengths and phases come of its seed."""
        rng = stream(self.seed, "hum")
        numbers = np.arange(1, self.harmonics + 1)
        strengths = rng.uniform(0.3, 1.0, self.harmonics) / numbers ** rng.uniform(0.5, 1.2)
        phases = np.exp(2j * np.pi * rng.random(self.harmonics))
        # The harmonics are powers of one rotation: a polynomial in it, by Horner's rule, instead of a sine for each.
        rotation = np.exp(2j * np.pi * self.mains_hz / RATE_HZ * np.arange(len(wave)))
        tone = np.zeros(len(wave), dtype=np.complex128)
        for coefficient in (strengths * phases)[::-1]:
            tone = (tone + coefficient) * rotation
        return add(wave, np.ascontiguousarray(tone.imag).astype(np.float32), self.snr_db)


def add(wave: Wave, noise: Wave, snr_db: float) -> Wave:
    """Return speech with noise at a ratio over the active speech; noise that is silent adds nothing."""
    is_speech = active(wave)
    # Noise that falls between the words, such as one click, is not raised more than 10 dB over its own level.
    noise_power = max(power(noise[is_speech]), power(noise) / 10)
    if noise_power == 0.0:
        return wave.copy()
    gain = np.sqrt(power(wave[is_speech]) / noise_power * 10 ** (-snr_db / 10))
    return (wave + noise * gain).astype(np.float32)


def coloured(white: Float[np.ndarray, "time"], slope: float) -> Wave:
    """Return white noise made to fall in power with frequency to the power `slope`, from 20 Hz up."""
    frequencies = np.fft.rfftfreq(len(white), 1 / RATE_HZ)
    shape = np.maximum(frequencies, 20.0) ** (-slope / 2)
    return np.fft.irfft(np.fft.rfft(white) * shape * (frequencies > 0), len(white)).astype(np.float32)
