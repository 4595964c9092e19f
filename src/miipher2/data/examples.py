"""Examples: what is trained on, each a function of (seed, step, slot) and of nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.utils.data import Dataset

from miipher2 import audio
from miipher2.data.degradations import apply, draw
from miipher2.data.levels import active_level_db
from miipher2.data.manifest import Manifest
from miipher2.data.pools import Pools, Recent
from miipher2.data.survey import file_digest
from miipher2.rng import stream

CLEAN_RATE_HZ = 16000
FRAMES_PER_SECOND = 50
# Clean speech stays below full scale, whatever level is drawn.
HIGHEST_PEAK = 0.99

Wave = Float32[np.ndarray, "time"]


class Decoded(NamedTuple):
    """A whole utterance at both rates (the same array if they are equal), its level and its highest value."""

    clean: Wave
    target: Wave
    level_db: float
    peak: float


class Examples(Dataset[dict[str, Tensor]]):
    """Crops of clean speech with their degraded form, by (step, slot); slot runs over the global batch.

    Every epoch goes through the utterances once, in an order of its own; a batch may span two epochs.
    """

    def __init__(
        self,
        manifest: Manifest,
        pools: Pools | None,
        degradation: Mapping[str, Mapping[str, Any]] | None,
        *,
        root: Path,
        seed: int,
        batch_size: int,
        crop_seconds: int | float,
        sample_rate_hz: int,
        level_db: Sequence[int | float],
        segment_frames: int | None = None,
        stream_name: str = "example",
        cache_mb: int | float = 256.0,
    ) -> None:
        """Check everything that can be checked without opening a sound file.

        Args:
            manifest: the utterances of one split.
            pools: noises and rooms; may be None where `degradation` is.
            degradation: settings of `degradations.draw`; None leaves the degraded speech as clean as the clean.
            batch_size: examples in the global batch, over all ranks.
            crop_seconds: length of an example, a whole number of frames of 20 ms.
            sample_rate_hz: rate of the target; a multiple of 50.
            level_db: range of the level of the utterance's active speech, in dB of full scale (-26 is usual). A level
                that would lift the utterance's peak over full scale is lowered to what does not.
            segment_frames: length of the segment whose place is drawn too; None draws none.
            stream_name: names the chance, so that training and validation hear other crops and noises.
            cache_mb: memory for decoded files, in each worker.

        Raises:
            ValueError: an argument is out of range, names what is unknown, or asks of an empty manifest or pool.
        """
        self.crop_frames = round(crop_seconds * FRAMES_PER_SECOND)
        if self.crop_frames < 1 or abs(self.crop_frames - crop_seconds * FRAMES_PER_SECOND) > 1e-6:
            raise ValueError(f"crop_seconds is {crop_seconds}; it should be a positive multiple of 0.02, a frame")
        if sample_rate_hz < 1 or sample_rate_hz % FRAMES_PER_SECOND:
            raise ValueError(f"sample_rate_hz is {sample_rate_hz}; it should be a multiple of {FRAMES_PER_SECOND}")
        if segment_frames is not None and not 1 <= segment_frames <= self.crop_frames:
            raise ValueError(
                f"segment_frames is {segment_frames}; it should be from 1 to the crop's {self.crop_frames}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it should be at least 1")
        if len(level_db) != 2 or level_db[0] > level_db[1]:
            raise ValueError(f"level_db is {level_db}; it should be [low, high]")
        if len(manifest) == 0:
            raise ValueError("the manifest holds no utterance to make examples of; does this split have any?")
        self.manifest, self.batch_size, self.sample_rate_hz = manifest, batch_size, sample_rate_hz
        self._pools, self._degradation, self._root, self._seed = pools, degradation, root, seed
        self._level_db, self._segment_frames, self._stream_name = level_db, segment_frames, stream_name
        self._decoded: Recent[int, Decoded] = Recent(cache_mb, _bytes)
        self._order: Recent[int, np.ndarray] = Recent(0.0, lambda order: order.nbytes)
        if degradation is not None:
            if pools is None:
                raise ValueError("degradation settings need pools of noises and rooms")
            draw(stream(seed, "check"), degradation, pools, self._crop_samples)

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Tensor]:
        """Return example `(step, slot)`: batch `step` makes update `step + 1`, slots run from 0 to `batch_size - 1`.

        Returns:
            clean and degraded [time] at 16 kHz, target [time] at `sample_rate_hz`, the same crop, zeros where the
            utterance is shorter; valid_frames, the frames that hold audio; segment_start, a frame; utterance, its
            number in the manifest.

        Raises:
            AudioError: the utterance's file is missing, unreadable, or not the one in the manifest.
        """
        step, slot = index
        if step < 0 or not 0 <= slot < self.batch_size:
            raise IndexError(f"example (step {step}, slot {slot}) of batches of {self.batch_size}")
        utterance = self._utterance(step * self.batch_size + slot)
        decoded = self._decoded.get(utterance, lambda: self._decode(utterance))
        rng = stream(self._seed, self._stream_name, step, slot)
        # Drawn whatever the settings and the file, so that the degradation hangs on neither.
        crop, level, segment = rng.random(3)
        frames = len(decoded.clean) * FRAMES_PER_SECOND // CLEAN_RATE_HZ
        start = int(crop * (max(0, frames - self.crop_frames) + 1))
        gain = self._gain(decoded, float(level))
        clean, valid_frames = self._crop(decoded.clean, start, CLEAN_RATE_HZ, gain)
        target = (
            clean
            if self.sample_rate_hz == CLEAN_RATE_HZ
            else self._crop(decoded.target, start, self.sample_rate_hz, gain)[0]
        )
        segment_start = int(segment * (max(0, valid_frames - self._segment_frames) + 1)) if self._segment_frames else 0
        return {
            "clean": torch.from_numpy(clean),
            "degraded": torch.from_numpy(self._degraded(clean, rng)),
            "target": torch.from_numpy(target.copy()),
            "valid_frames": torch.tensor(valid_frames),
            "segment_start": torch.tensor(segment_start),
            "utterance": torch.tensor(utterance),
        }

    @property
    def _crop_samples(self) -> int:
        return self.crop_frames * CLEAN_RATE_HZ // FRAMES_PER_SECOND

    def _utterance(self, number: int) -> int:
        """Return the utterance of the example with this number in the whole of training."""
        epoch, place = divmod(number, len(self.manifest))
        order = self._order.get(epoch, lambda: stream(self._seed, "epoch", epoch).permutation(len(self.manifest)))
        return int(order[place])

    def _decode(self, utterance: int) -> Decoded:
        row = self.manifest.row(utterance)
        path = self._root / row.path
        wave, rate_hz = audio.read(path)
        if file_digest(path) != row.sha256:
            found = f"{len(wave) / rate_hz:.3f} s at {rate_hz} Hz, the manifest has {row.seconds:.3f} s"
            raise audio.AudioError(f"{path}: its content is not the manifest's ({found}); run prepare_data again")
        clean = audio.resample(wave, rate_hz, CLEAN_RATE_HZ)
        target = audio.resample(wave, rate_hz, self.sample_rate_hz)
        peak = max(float(np.abs(each).max(initial=0.0)) for each in (clean, target))
        return Decoded(clean, target, active_level_db(clean), peak)

    def _gain(self, decoded: Decoded, level: float) -> np.float32:
        """Return what lifts the utterance to the level drawn as a part of the range, or as far as its peak lets it."""
        if decoded.peak == 0.0:
            return np.float32(1.0)
        low, high = self._level_db
        gain = 10 ** ((low + (high - low) * level - decoded.level_db) / 20)
        return np.float32(min(gain, HIGHEST_PEAK / decoded.peak))

    def _crop(self, wave: Wave, start_frame: int, rate_hz: int, gain: np.float32) -> tuple[np.ndarray, int]:
        """Return the crop as a new array, and how many of its frames hold audio."""
        hop = rate_hz // FRAMES_PER_SECOND
        part = wave[start_frame * hop : (start_frame + self.crop_frames) * hop]
        crop = np.zeros(self.crop_frames * hop, dtype=np.float32)
        crop[: len(part)] = part * gain
        return crop, -(-len(part) // hop)

    def _degraded(self, clean: Wave, rng: np.random.Generator) -> Wave:
        if self._degradation is None or self._pools is None:
            return clean.copy()
        return apply(clean, draw(rng, self._degradation, self._pools, len(clean)), self._pools)


def _bytes(decoded: Decoded) -> int:
    return decoded.clean.nbytes + (0 if decoded.target is decoded.clean else decoded.target.nbytes)
