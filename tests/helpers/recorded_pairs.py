"""Recorded pairs for the tests: the same utterances in clean/ and degraded/, at other rates and late or early."""

from pathlib import Path
from typing import Any

import numpy as np
from data_configs import prepare_folder
from speech_like import speech_like

from miipher2.audio.io import write_audio
from miipher2.audio.resample import resample
from miipher2.config.schema_data import PairsConfig
from miipher2.rng import stream

CLEAN_RATES_HZ, DEGRADED_RATES_HZ = (24_000, 16_000, 44_100), (16_000, 8_000)


def utterance(index: int, samples: int) -> np.ndarray:
    """Return the clean utterance of a number at 16 kHz."""
    return 0.5 * speech_like(samples, seed=index)


def recorded(wave: np.ndarray, delay: int, seed: int) -> np.ndarray:
    """Return a wave as another device records it: so many samples late or early, inverted, quieter and noisy."""
    heard = np.concatenate([np.zeros(max(0, delay), np.float32), wave[max(0, -delay) :]])
    return (-0.3 * heard + 0.005 * stream(seed, "noise").standard_normal(len(heard))).astype(np.float32)


def write_pairs(folder: Path, count: int = 12, seconds: float = 1.5) -> dict[str, int]:
    """Write pairs in clean/a and degraded/a and return the delay of each in samples at 16 kHz, by name.

    Some degraded recordings end early.
    """
    delays = {}
    for index in range(count):
        wave = utterance(index, round(seconds * 16_000) + 800 * index)
        delay = int(stream(index, "delay").integers(-3000, 3000)) // 2 * 2  # whole samples at 8 kHz too
        rates_hz = CLEAN_RATES_HZ[index % 3], DEGRADED_RATES_HZ[index % 2]
        heard = recorded(wave, delay, index)[: -1000 if index % 4 == 1 else None]
        for side, sound, rate_hz, suffix in [
            ("clean", wave, rates_hz[0], "flac"),
            ("degraded", heard, rates_hz[1], "wav"),
        ]:
            path = folder / side / f"a/{index:02d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_audio(path, resample(sound, 16_000, rate_hz), rate_hz)
        delays[f"a/{index:02d}"] = delay
    return delays


def prepare_pairs(source: Path, prepared: Path, root: Path, **changes: Any) -> dict[str, Any]:
    """Prepare such pairs and return the report."""
    limits = {key: changes.pop(key, value) for key, value in LIMITS.items()}
    pairs = PairsConfig(clean="clean", degraded="degraded", **limits)
    return prepare_folder(source, prepared, root, pairs=pairs, **changes)


LIMITS = {"max_delay_seconds": 0.25, "min_correlation": 0.1}
