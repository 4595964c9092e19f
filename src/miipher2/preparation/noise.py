"""Generated noises for the pool: white, pink, brown, hum, clicks and babble."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from miipher2.atomic_io import sha256_of
from miipher2.audio.io import read_audio, write_audio
from miipher2.audio.levels import power
from miipher2.audio.resample import resample
from miipher2.config.schema_data import SAMPLE_RATE_HZ
from miipher2.data.degradations.additive import colour_noise
from miipher2.data.manifest import Manifest, Utterance, relative_path
from miipher2.rng import stream

SECONDS = 10.0
SAMPLES = round(SECONDS * SAMPLE_RATE_HZ)
RMS = 0.05  # -26 dB of full scale, the usual reference level; peaks of clicks are clipped

Wave = Float32[np.ndarray, "time"]


def make_noises(folder: Path, final_folder: Path, root: Path, *, speech: Manifest, seed: int, files: int) -> Manifest:
    """Write noises of 10 s at 16 kHz, the types in turn, and return their manifest.

    The last sixth of the files (at least one of several) is the test split: noises that training never uses.

    Args:
        folder: where the files are written.
        final_folder: where they will lie, which the manifest names.
        speech: what babble is mixed from: its training split, so that no held-out voice is used in training.
    """
    folder.mkdir(parents=True)
    rows = []
    voices = speech.select("train")
    for index in range(files):
        name = NOISES[index % len(NOISES)]
        rng = stream(seed, "noise", index)
        wave = _babble(rng, voices, root) if name == "babble" else GENERATORS[name](rng, SAMPLES)
        file = f"{index:04d}_{name}.flac"
        write_audio(folder / file, _normalise_level(wave), SAMPLE_RATE_HZ)
        split = "test" if 0 < index >= files - max(1, files // 6) else "train"
        path, digest = relative_path(final_folder / file, root), sha256_of(folder / file)
        rows.append(Utterance(path, name, "none", SECONDS, SAMPLE_RATE_HZ, digest, split))
    return Manifest.from_utterances(rows)


def white(rng: np.random.Generator, samples: int) -> Wave:
    """Return noise of equal power at every frequency."""
    return colour_noise(rng.standard_normal(samples), 0.0)


def pink(rng: np.random.Generator, samples: int) -> Wave:
    """Return noise that falls by 3 dB per octave."""
    return colour_noise(rng.standard_normal(samples), 1.0)


def brown(rng: np.random.Generator, samples: int) -> Wave:
    """Return noise that falls by 6 dB per octave."""
    return colour_noise(rng.standard_normal(samples), 2.0)


def hum(rng: np.random.Generator, samples: int) -> Wave:
    """Return mains hum, 50 or 60 Hz with its harmonics, over a faint hiss."""
    mains_hz = rng.choice([50.0, 60.0]) * rng.uniform(0.998, 1.002)
    seconds = np.arange(samples) / SAMPLE_RATE_HZ
    wave = np.zeros(samples)
    for harmonic in range(1, int(rng.integers(8, 24))):
        strength = rng.uniform(0.3, 1.0) / harmonic ** rng.uniform(0.5, 1.2)
        wave += strength * np.sin(2 * np.pi * (harmonic * mains_hz * seconds + rng.random()))
    return (wave + 0.02 * rng.standard_normal(samples)).astype(np.float32)


def clicks(rng: np.random.Generator, samples: int) -> Wave:
    """Return short decaying clicks at random times, 10 to 60 per second, over a faint hiss."""
    wave = 0.01 * rng.standard_normal(samples)
    for _ in range(round(rng.uniform(10, 60) * samples / SAMPLE_RATE_HZ)):
        start = int(rng.integers(samples))
        length = min(int(rng.integers(16, 320)), samples - start)
        decay = np.exp(-np.arange(length) / rng.uniform(4, 60))
        wave[start : start + length] += rng.lognormal(0.0, 0.7) * decay * rng.standard_normal(length)
    return wave.astype(np.float32)


GENERATORS: dict[str, Callable[[np.random.Generator, int], Wave]] = {
    "white": white,
    "pink": pink,
    "brown": brown,
    "hum": hum,
    "clicks": clicks,
}
NOISES = (*GENERATORS, "babble")


def _babble(rng: np.random.Generator, voices: Manifest, root: Path) -> Wave:
    """Return several voices at once, each at its own level and start, repeated where it is short."""
    indices = rng.choice(len(voices), size=min(len(voices), int(rng.integers(5, 9))), replace=False)
    mixed = np.zeros(SAMPLES, dtype=np.float32)
    for index in indices:
        wave, rate_hz = read_audio(voices.row(int(index)).source(root))
        voice = resample(wave, rate_hz, SAMPLE_RATE_HZ)
        gain = 10 ** (rng.uniform(-6, 0) / 20) / max(float(np.sqrt(np.mean(np.square(voice)))), 1e-6)
        mixed += np.float32(gain) * np.resize(np.roll(voice, int(rng.integers(len(voice)))), SAMPLES)
    return mixed


def _normalise_level(wave: Wave) -> Wave:
    return np.clip(wave * np.float32(RMS / max(float(np.sqrt(power(wave))), 1e-9)), -1.0, 1.0)
