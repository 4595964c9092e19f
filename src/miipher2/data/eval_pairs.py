"""Held-out pairs for evaluation: whole utterances of one split, degraded by a function of (seed, content), or recorded.

Of recorded pairs nothing is simulated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from miipher2.audio.io import read_audio
from miipher2.audio.resample import resample
from miipher2.config.schema_data import SAMPLE_RATE_HZ, DegradationConfig
from miipher2.data.degradations.chain import Degradation, apply, check_pools, draw
from miipher2.data.manifest import Manifest
from miipher2.data.pools import Pools
from miipher2.rng import stream


@dataclass(frozen=True)
class Pair:
    """One utterance, clean and degraded at 16 kHz and equally long; `target` is the clean one at the output rate."""

    name: str
    clean: Float32[np.ndarray, "time"]
    degraded: Float32[np.ndarray, "time"]
    target: Float32[np.ndarray, "target_time"]
    degradation: Degradation | None  # None: recorded
    speaker: str
    language: str
    transcript: str = ""

    def labels(self, snr_bands_db: Sequence[float]) -> dict[str, tuple[str, ...]]:
        """Return the groups it is summarised in: speaker, language, degradations, band of the lowest SNR.

        Args:
            snr_bands_db: bounds of the bands, ascending.
        """
        if self.degradation is None:
            return {
                "speaker": (self.speaker,),
                "language": (self.language,),
                "degradation": ("recorded",),
                "snr": ("unknown",),
            }
        transforms = self.degradation.as_dict()
        snrs_db = [float(values["snr_db"]) for values in transforms.values() if "snr_db" in values]
        return {
            "speaker": (self.speaker,),
            "language": (self.language,),
            "degradation": tuple(transforms) or ("none",),
            "snr": (_band_name(min(snrs_db), snr_bands_db) if snrs_db else "no noise",),
        }


def read_pairs(
    manifest: Manifest,
    pools: Pools,
    degradation: DegradationConfig,
    *,
    root: Path,
    seed: int,
    count: int,
    sample_rate_hz: int,
) -> Iterator[Pair]:
    """Yield the `count` utterances of the smallest content digests, so that another file changes no pair.

    Args:
        sample_rate_hz: of the target.

    Raises:
        AudioError: a file cannot be read.
        ValueError: a pool that the degradation reads is empty.
    """
    if not manifest.has_pairs:
        check_pools(degradation, pools)
    rows = sorted((manifest.row(index) for index in range(len(manifest))), key=lambda row: row.sha256)[:count]
    for row in rows:
        wave, rate_hz = read_audio(row.source(root), *row.span())
        clean = resample(wave, rate_hz, SAMPLE_RATE_HZ)
        target = resample(wave, rate_hz, sample_rate_hz)
        drawn = None
        if manifest.has_pairs:
            degraded = resample(*read_audio(root / row.degraded_path, *row.degraded_span()), SAMPLE_RATE_HZ)
            degraded = np.pad(degraded, (0, max(0, len(clean) - len(degraded))))[: len(clean)]  # lengths are rounded
        else:
            drawn = draw(stream(seed, "pair", row.sha256), degradation, pools, len(clean))
            degraded = apply(clean, drawn, pools)
        yield Pair(row.name, clean, degraded, target, drawn, row.speaker, row.language, row.transcript)


def _band_name(snr_db: float, bounds_db: Sequence[float]) -> str:
    """Return a name such as `10 to 15 dB`."""
    below = [bound for bound in bounds_db if bound <= snr_db]
    above = [bound for bound in bounds_db if bound > snr_db]
    if not below or not above:
        return f"under {above[0]:g} dB" if above else f"{below[-1]:g} dB and more"
    return f"{below[-1]:g} to {above[0]:g} dB"
