"""The kinds of degradation, in the order in which they happen; a new kind is a class here and a line in `KINDS`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from miipher2 import audio
from miipher2.data.levels import active, power
from miipher2.data.pools import RATE_HZ, Pools

Wave = Float32[np.ndarray, "time"]
Range = Any  # [low, high] from a configuration; `_range` checks it


@dataclass(frozen=True)
class Kind(ABC):
    """One thing that happens to speech; its fields are all the chance in it.

    The arguments of `draw` after `samples` are the keys of the kind's settings. Every draw takes the same number of
    values from `rng`, whatever the settings.
    """

    @classmethod
    @abstractmethod
    def draw(cls, *args: Any, **ranges: Any) -> "Kind":
        """Return a kind with its values drawn for `samples` values; ValueError names a setting that is no good."""

    @abstractmethod
    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Return a new wave; `wave` is not silent and is left as it is."""


@dataclass(frozen=True)
class Room(Kind):
    """Speech in a room, as loud as it was without; its direct sound stays where it was."""

    response: int

    @classmethod
    def draw(cls, rng: np.random.Generator, pools: Pools, samples: int) -> "Room":
        """Take any response of the pool."""
        return cls(_index(rng, "room", len(pools.rooms)))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Convolve with the response, and cut to the length of `wave`."""
        response = pools.response(self.response)
        size = _fft_size(len(wave) + len(response) - 1)
        reverberant = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)[: len(wave)]
        gain = np.sqrt(power(wave) / max(power(reverberant.astype(np.float32)), 1e-30))
        return (reverberant * gain).astype(np.float32)


@dataclass(frozen=True)
class Noise(Kind):
    """Noise of the pool from a place in its file on, at a ratio of speech to noise over the active speech."""

    noise: int
    start_seconds: float
    snr_db: float

    @classmethod
    def draw(cls, rng: np.random.Generator, pools: Pools, samples: int, snr_db: Range) -> "Noise":
        """Take any noise, any start from which it lasts if it is long enough, and a ratio in dB, uniform in a range."""
        index = _index(rng, "noise", len(pools.noises))
        seconds = pools.noises.row(index).seconds
        spare = seconds - samples / RATE_HZ
        start = float(rng.random()) * (spare if spare > 0 else seconds)
        return cls(index, start, _uniform(rng, "noise.snr_db", snr_db, -100, 200))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Add the noise; a stretch of it that is silent adds nothing."""
        noise = pools.noise(self.noise, self.start_seconds, len(wave))
        is_speech = active(wave)
        # Noise that falls between the words, such as one click, is not raised more than 10 dB over its own level.
        noise_power = max(power(noise[is_speech]), power(noise) / 10)
        if noise_power == 0.0:
            return wave.copy()
        gain = np.sqrt(power(wave[is_speech]) / noise_power * 10 ** (-self.snr_db / 10))
        return (wave + noise * gain).astype(np.float32)


@dataclass(frozen=True)
class BandLimit(Kind):
    """A low-pass without delay, as of a lower sample rate."""

    cutoff_hz: float

    @classmethod
    def draw(cls, rng: np.random.Generator, pools: Pools, samples: int, cutoff_hz: Range) -> "BandLimit":
        """Take a cutoff in Hz, uniform in a range."""
        return cls(_uniform(rng, "band_limit.cutoff_hz", cutoff_hz, 1, RATE_HZ / 2))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Let through all below the cutoff, and nothing from a tenth above it."""
        size = _fft_size(len(wave) + 1024)
        frequencies = np.fft.rfftfreq(size, 1 / RATE_HZ)
        beyond = np.clip((frequencies / self.cutoff_hz - 1.0) / 0.1, 0.0, 1.0)
        response = (0.5 + 0.5 * np.cos(np.pi * beyond)).astype(np.float32)
        return np.fft.irfft(np.fft.rfft(wave, size) * response, size)[: len(wave)].astype(np.float32)


@dataclass(frozen=True)
class Clipping(Kind):
    """Hard clipping at a part of the peak."""

    threshold: float

    @classmethod
    def draw(cls, rng: np.random.Generator, pools: Pools, samples: int, threshold: Range) -> "Clipping":
        """Take a threshold relative to the peak, uniform in a range."""
        return cls(_uniform(rng, "clipping.threshold", threshold, 1e-3, 1))

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Cut off what is higher."""
        limit = np.float32(self.threshold) * np.abs(wave).max()
        return np.clip(wave, -limit, limit)


@dataclass(frozen=True)
class Codec(Kind):
    """A codec of `audio.CODECS`, there and back; `bit_rate_kbps` is None where the codec has only one."""

    codec: str
    bit_rate_kbps: float | None

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        pools: Pools,
        samples: int,
        kinds: Sequence[str] = audio.CODECS,
        bit_rate_kbps: Range = (16, 64),
    ) -> "Codec":
        """Take one of `kinds`, and for MP3, Vorbis and Opus a bit rate in kbit/s, uniform in octaves."""
        if not kinds or (unknown := [kind for kind in kinds if kind not in audio.CODECS]):
            named = f"names '{unknown[0]}'" if kinds else "is empty"
            raise ValueError(f"degradation.codec.kinds {named}; it should list some of {', '.join(audio.CODECS)}")
        codec = kinds[int(rng.random() * len(kinds))]
        low, high = _range("codec.bit_rate_kbps", bit_rate_kbps, 1, 512)
        rate = round(low * (high / low) ** float(rng.random()), 3)
        return cls(codec, rate if codec in audio.RATED_CODECS else None)

    def apply(self, wave: Wave, pools: Pools) -> Wave:
        """Code and decode in memory."""
        return audio.through_codec(wave, RATE_HZ, self.codec, self.bit_rate_kbps)


KINDS: dict[str, type[Kind]] = {
    "room": Room,
    "noise": Noise,
    "band_limit": BandLimit,
    "clipping": Clipping,
    "codec": Codec,
}


def _index(rng: np.random.Generator, pool: str, files: int) -> int:
    """Return any number below `files`.

    Raises:
        ValueError: there is none to take.
    """
    if files == 0:
        raise ValueError(f"degradation.{pool}: the pool of {pool}s is empty; prepare some, or leave '{pool}' out")
    return int(rng.random() * files)


def _uniform(rng: np.random.Generator, name: str, values: Range, low: int | float, high: int | float) -> float:
    first, last = _range(name, values, low, high)
    return first + (last - first) * float(rng.random())


def _range(name: str, values: Range, low: int | float, high: int | float) -> tuple[float, float]:
    """Return a setting as its two ends.

    Raises:
        ValueError: it is no pair of numbers in order, from `low` to `high`.
    """
    is_pair = isinstance(values, Sequence) and len(values) == 2 and all(isinstance(v, int | float) for v in values)
    if not is_pair or not low <= values[0] <= values[1] <= high:
        raise ValueError(f"degradation.{name} is {values}; it should be [low, high] with numbers from {low} to {high}")
    return float(values[0]), float(values[1])


def _fft_size(samples: int) -> int:
    """Return a size that a Fourier transform is quick at: 2, 3 or 5 times a power of two."""
    return min(factor << max(0, (-(-samples // factor) - 1).bit_length()) for factor in (2, 3, 5))
