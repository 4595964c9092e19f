"""Crops of utterances at both sample rates, from decoded files in a cache or from a part of a long file.

Of recorded pairs also the same crop of the degraded recording.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from miipher2.atomic_io import sha256_of
from miipher2.audio.decode import AudioError, AudioSource
from miipher2.audio.io import read_audio
from miipher2.audio.resample import resample
from miipher2.config.schema_data import FRAMES_PER_SECOND, SAMPLE_RATE_HZ
from miipher2.data.lru_cache import LruCache
from miipher2.data.manifest import Manifest, Utterance

# Shorter files are decoded whole and cached for the next crop; of longer ones only what a crop needs is read.
WHOLE_SECONDS = 30

Wave = Float32[np.ndarray, "time"]
TargetWave = Float32[np.ndarray, "target_time"]
DegradedWave = Float32[np.ndarray, "degraded_time"]


@dataclass(frozen=True)
class Crop:
    """A crop of an utterance at both rates: new arrays, padded with zeros where the utterance is shorter."""

    clean: Wave
    target: TargetWave  # the same array as `clean` if the rates are equal
    valid_frames: int
    level_db: float  # of the whole utterance's active speech
    peak: float  # of the whole utterance, or of the crop where resampling made that higher
    degraded: Wave | None = None  # of a recorded pair, where it was asked for


@dataclass(frozen=True)
class _Decoded:
    """An utterance from a frame on, at both rates; the same array if they are equal."""

    clean: Wave
    target: TargetWave
    first_frame: int
    degraded: DegradedWave | None

    @property
    def nbytes(self) -> int:
        degraded_bytes = 0 if self.degraded is None else self.degraded.nbytes
        return self.clean.nbytes + degraded_bytes + (0 if self.target is self.clean else self.target.nbytes)


class CropReader:
    """Reads crops of a manifest's utterances, and caches decoded files up to `cache_mb`.

    Args:
        with_degraded: whether to read the degraded side of recorded pairs.
    """

    def __init__(
        self,
        manifest: Manifest,
        root: Path,
        target_rate_hz: int,
        *,
        cache_mb: int | float,
        with_degraded: bool = False,
    ) -> None:
        self._manifest, self._root, self._target_rate_hz = manifest, root, target_rate_hz
        self._reads_degraded = with_degraded and manifest.has_pairs
        self._cache: LruCache[int, _Decoded] = LruCache(cache_mb, lambda decoded: decoded.nbytes)
        # Flags by number, not a set of names: the size stays fixed.
        self._is_checked = np.zeros(len(manifest), dtype=bool)

    def read(self, utterance: int, position: float, frames: int) -> Crop:
        """Return a crop of `frames` frames of 20 ms.

        Args:
            position: of its start among all possible starts, from 0 to 1.

        Raises:
            AudioError: the file is missing, unreadable, or differs from the manifest.
        """
        row = self._manifest.row(utterance)
        start = int(position * (max(0, _whole_frames(row) - frames) + 1))
        if row.seconds <= WHOLE_SECONDS:
            decoded = self._cache.get(utterance, lambda: self._decode_whole(row))
        else:
            decoded = self._decode_part(utterance, row, start, frames)
        first = start - decoded.first_frame
        clean, valid_frames = _cut(decoded.clean, first, frames, SAMPLE_RATE_HZ)
        has_one_rate = decoded.target is decoded.clean
        target = clean if has_one_rate else _cut(decoded.target, first, frames, self._target_rate_hz)[0]
        peak = max(row.peak, *(float(np.abs(each).max()) for each in (clean, target)))
        degraded = None if decoded.degraded is None else _cut(decoded.degraded, first, frames, SAMPLE_RATE_HZ)[0]
        return Crop(clean, target, valid_frames, row.level_db, peak, degraded)

    def _decode_whole(self, row: Utterance) -> _Decoded:
        clean = read_audio(row.source(self._root), *row.span())
        degraded = read_audio(self._root / row.degraded_path, *row.degraded_span()) if self._reads_degraded else None
        self._check_content(row)
        return self._resample(clean, degraded, 0)

    def _decode_part(self, utterance: int, row: Utterance, start: int, frames: int) -> _Decoded:
        """Decode a crop with up to two seconds on either side, more than the resampling filter reaches.

        It starts on a whole second, where every rate has a sample, so that it resamples to the samples of the whole.
        """
        if not self._is_checked[utterance]:  # once per process, since it reads the whole file
            self._check_content(row)
            self._is_checked[utterance] = True
        begin = max(0, start // FRAMES_PER_SECOND - 1)
        end = -(-(start + frames) // FRAMES_PER_SECOND) + 1

        def read(source: AudioSource, first: int, rate_hz: int) -> tuple[Wave, int]:
            samples = min(end * rate_hz, round(row.seconds * rate_hz)) - begin * rate_hz
            return read_audio(source, first + begin * rate_hz, samples)

        clean = read(row.source(self._root), row.start_samples, row.sample_rate_hz)
        degraded = None
        if self._reads_degraded:
            path = self._root / row.degraded_path
            degraded = read(path, row.degraded_start_samples, row.degraded_sample_rate_hz)
        return self._resample(clean, degraded, begin * FRAMES_PER_SECOND)

    def _check_content(self, row: Utterance) -> None:
        files = [(row.source(self._root), row.sha256)]
        if self._reads_degraded:
            files.append((self._root / row.degraded_path, row.degraded_sha256))
        for source, digest in files:
            if sha256_of(source) != digest:
                raise AudioError(f"{source}: its content is not the manifest's; run prepare_data again")

    def _resample(
        self, clean: tuple[Wave, int], degraded: tuple[DegradedWave, int] | None, first_frame: int
    ) -> _Decoded:
        """Return waves at their own rates as an utterance at both rates."""
        at_16k = resample(*clean, SAMPLE_RATE_HZ)
        target = at_16k if self._target_rate_hz == SAMPLE_RATE_HZ else resample(*clean, self._target_rate_hz)
        degraded_16k = None if degraded is None else resample(*degraded, SAMPLE_RATE_HZ)
        return _Decoded(at_16k, target, first_frame, degraded_16k)


def _whole_frames(row: Utterance) -> int:
    return round(_samples(row) * SAMPLE_RATE_HZ / row.sample_rate_hz) * FRAMES_PER_SECOND // SAMPLE_RATE_HZ


def _samples(row: Utterance) -> int:
    return round(row.seconds * row.sample_rate_hz)


def _cut(wave: Wave, first_frame: int, frames: int, rate_hz: int) -> tuple[Float32[np.ndarray, "crop_time"], int]:
    """Return a crop as a new array, and how many of its frames hold audio."""
    hop = rate_hz // FRAMES_PER_SECOND
    part = wave[first_frame * hop : (first_frame + frames) * hop]
    crop = np.zeros(frames * hop, dtype=np.float32)
    crop[: len(part)] = part
    return crop, -(-len(part) // hop)
