"""Held-out pairs: whole utterances of one split, degraded by a rule of (seed, content), for evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from miipher2.audio.io import read_audio
from miipher2.audio.resample import resample
from miipher2.data.degradations.chain import Degradation, apply, draw
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
    speaker: str
    language: str

    def labels(self, snr_bands_db: Sequence[float]) -> dict[str, tuple[str, ...]]:
        """Return by what results are sorted: speaker, language, kinds of degradation, band of the lowest SNR drawn.

        Args:
            snr_bands_db: where bands begin and end, ascending.
        """
        kinds = self.degradation.as_dict()
        ratios = [float(values["snr_db"]) for values in kinds.values() if "snr_db" in values]
        return {
            "speaker": (self.speaker,),
            "language": (self.language,),
            "degradation": tuple(kinds) or ("none",),
            "snr": (_band(min(ratios), snr_bands_db) if ratios else "no noise",),
        }


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
        wave, rate_hz = read_audio(row.source(root))
        clean = resample(wave, rate_hz, RATE_HZ)
        drawn = draw(stream(seed, "pair", row.sha256), degradation, pools, len(clean))
        target = resample(wave, rate_hz, sample_rate_hz)
        yield Pair(row.name, clean, apply(clean, drawn, pools), target, drawn, row.speaker, row.language)


def _band(snr_db: float, bounds_db: Sequence[float]) -> str:
    """Return a band's name, such as `10 to 15 dB`."""
    below = [bound for bound in bounds_db if bound <= snr_db]
    above = [bound for bound in bounds_db if bound > snr_db]
    if not below or not above:
        return f"under {above[0]:g} dB" if above else f"{below[-1]:g} dB and more"
    return f"{below[-1]:g} to {above[0]:g} dB"
