"""Utterances decoded: crops at both rates, from files kept in memory or from a part of a long one."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from miipher2.atomic_io import sha256_of
from miipher2.audio.io import AudioError, read_audio, read_info
from miipher2.audio.resample import resample
from miipher2.data.lru_cache import LruCache
from miipher2.data.manifest import Manifest, Utterance

CLEAN_RATE_HZ = 16000
FRAMES_PER_SECOND = 50
# Of a longer file only what a crop needs is read; a shorter one is decoded whole and kept, for the next crop.
WHOLE_SECONDS = 30

Wave = Float32[np.ndarray, "time"]
TargetWave = Float32[np.ndarray, "target_time"]


@dataclass(frozen=True)
class Crop:
    """A part of an utterance at both rates: new arrays, zeros where the utterance is shorter."""

    clean: Wave
    target: TargetWave  # the same array if the rates are equal
    valid_frames: int
    level_db: float  # of the whole utterance's active speech
    peak: float  # of the whole utterance, or of the crop where resampling made that higher


@dataclass(frozen=True)
class _Decoded:
    """A whole utterance, or a part of one, at both rates (the same array if they are equal)."""

    clean: Wave
    target: TargetWave
    first_frame: int

    @property
    def bytes(self) -> int:
        return self.clean.nbytes + (0 if self.target is self.clean else self.target.nbytes)


class CropReader:
    """Reads utterances of a manifest, and keeps what it decoded last within a number of bytes."""

    def __init__(self, manifest: Manifest, root: Path, target_rate_hz: int, *, cache_mb: int | float) -> None:
        """Open nothing yet."""
        self._manifest, self._root, self._target_rate_hz = manifest, root, target_rate_hz
        self._whole: LruCache[int, _Decoded] = LruCache(cache_mb, lambda decoded: decoded.bytes)
        # By number and not by name: a fixed size, however many are read.
        self._checked = np.zeros(len(manifest), dtype=bool)

    def crop(self, utterance: int, place: float, frames: int) -> Crop:
        """Return a crop of so many frames of 20 ms.

        Args:
            place: where it begins, as a part of all possible places.

        Raises:
            AudioError: the file is missing, unreadable, or not the one in the manifest.
        """
        row = self._manifest.row(utterance)
        start = int(place * (max(0, _frames(row) - frames) + 1))
        if row.seconds <= WHOLE_SECONDS:
            decoded = self._whole.get(utterance, lambda: self._decode_whole(row))
        else:
            decoded = self._decode_part(utterance, row, start, frames)
        first = start - decoded.first_frame
        clean, valid_frames = _cut(decoded.clean, first, frames, CLEAN_RATE_HZ)
        is_one = decoded.target is decoded.clean
        target = clean if is_one else _cut(decoded.target, first, frames, self._target_rate_hz)[0]
        peak = max(row.peak, *(float(np.abs(each).max()) for each in (clean, target)))
        return Crop(clean, target, valid_frames, row.level_db, peak)

    def _decode_whole(self, row: Utterance) -> _Decoded:
        wave, rate_hz = read_audio(row.source(self._root))
        self._check(row, f"{len(wave) / rate_hz:.3f} s at {rate_hz} Hz, the manifest has {row.seconds:.3f} s")
        return self._resampled(wave, rate_hz, 0)

    def _decode_part(self, utterance: int, row: Utterance, start: int, frames: int) -> _Decoded:
        """Decode a crop and up to two seconds on either side, so that the resampling filter sees no edge of it.

        It begins on a whole second, where every rate has a value, so that the resampled values are those of the whole.
        """
        source = row.source(self._root)
        about = read_info(source)
        if not self._checked[utterance]:  # once a process: the whole file has to be read for it
            self._check(
                row, f"{about.seconds:.3f} s at {about.sample_rate_hz} Hz, the manifest has {row.seconds:.3f} s"
            )
            self._checked[utterance] = True
        rate_hz = about.sample_rate_hz
        begin = max(0, start // FRAMES_PER_SECOND - 1)
        end = -(-(start + frames) // FRAMES_PER_SECOND) + 1
        wave, _ = read_audio(source, begin * rate_hz, min(end * rate_hz, about.samples) - begin * rate_hz)
        return self._resampled(wave, rate_hz, begin * FRAMES_PER_SECOND)

    def _check(self, row: Utterance, found: str) -> None:
        source = row.source(self._root)
        if sha256_of(source) != row.sha256:
            raise AudioError(f"{source}: its content is not the manifest's ({found}); run prepare_data again")

    def _resampled(self, wave: Wave, rate_hz: int, first_frame: int) -> _Decoded:
        clean = resample(wave, rate_hz, CLEAN_RATE_HZ)
        target = clean if self._target_rate_hz == CLEAN_RATE_HZ else resample(wave, rate_hz, self._target_rate_hz)
        return _Decoded(clean, target, first_frame)


def _frames(row: Utterance) -> int:
    """Return the whole frames of an utterance at 16 kHz."""
    samples = round(row.seconds * row.sample_rate_hz)
    return round(samples * CLEAN_RATE_HZ / row.sample_rate_hz) * FRAMES_PER_SECOND // CLEAN_RATE_HZ


def _cut(wave: Wave, start_frame: int, frames: int, rate_hz: int) -> tuple[Float32[np.ndarray, "crop_time"], int]:
    """Return a crop as a new array, and how many of its frames hold audio."""
    hop = rate_hz // FRAMES_PER_SECOND
    part = wave[start_frame * hop : (start_frame + frames) * hop]
    crop = np.zeros(frames * hop, dtype=np.float32)
    crop[: len(part)] = part
    return crop, -(-len(part) // hop)
