"""Held-out pairs: whole utterances of one split, degraded by a rule of (seed, content), for evaluation."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from miipher2 import audio
from miipher2.data.degradations import Degradation, apply, draw
from miipher2.data.manifest import Manifest
from miipher2.data.pools import RATE_HZ, Pools
from miipher2.rng import stream


@dataclass(frozen=True)
class Pair:
    """One utterance, clean and degraded, both at 16 kHz and equally long; `clean` is also at the rate asked for."""

    name: str
    clean: Float32[np.ndarray, "time"]
    degraded: Float32[np.ndarray, "time"]
    target: Float32[np.ndarray, "target_time"]
    degradation: Degradation


def pairs(
    manifest: Manifest,
    pools: Pools,
    degradation: Mapping[str, Any],
    *,
    root: Path,
    seed: int,
    count: int,
    sample_rate_hz: int,
) -> Iterator[Pair]:
    """Yield `count` utterances, those of the smallest content digest: another file more or less moves no other.

    Args:
        degradation: settings of `degradations.draw`.
        sample_rate_hz: of the target.

    Raises:
        AudioError: a file cannot be read.
    """
    rows = sorted((manifest.row(index) for index in range(len(manifest))), key=lambda row: row.sha256)[:count]
    for row in rows:
        wave, rate_hz = audio.read(row.source(root))
        clean = audio.resample(wave, rate_hz, RATE_HZ)
        drawn = draw(stream(seed, "pair", row.sha256), degradation, pools, len(clean))
        target = audio.resample(wave, rate_hz, sample_rate_hz)
        yield Pair(row.name, clean, apply(clean, drawn, pools), target, drawn)
