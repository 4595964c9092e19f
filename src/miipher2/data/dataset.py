"""SpeechDataset: what is trained on, each a function of (seed, step, slot) and of nothing else."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.utils.data import Dataset

from miipher2.audio.io import AudioError
from miipher2.data.crop_reader import CLEAN_RATE_HZ, FRAMES_PER_SECOND, Crop, CropReader
from miipher2.data.degradations.chain import apply, draw
from miipher2.data.manifest import Manifest
from miipher2.data.pools import Pools
from miipher2.data.sampler import Order
from miipher2.rng import stream

log = logging.getLogger(__name__)

# Clean speech stays below full scale, whatever level is drawn.
HIGHEST_PEAK = 0.99

Wave = Float32[np.ndarray, "time"]


class SpeechDataset(Dataset[dict[str, Tensor]]):
    """Crops of clean speech with their degraded form, by (step, slot); slot runs over the global batch.

    Every epoch goes through the utterances once, in an order of its own; a batch may span two epochs.
    """

    def __init__(
        self,
        manifest: Manifest,
        pools: Pools | None,
        degradation: Mapping[str, Any] | None,
        *,
        root: Path,
        seed: int,
        batch_size: int,
        crop_seconds: int | float,
        sample_rate_hz: int,
        level_db: Sequence[int | float],
        segment_frames: int | None = None,
        stream_name: str = "example",
        weights: Mapping[str, float] | None = None,
        on_bad_file: str = "error",
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
            weights: each corpus's share of the examples; None takes every utterance as often.
            on_bad_file: what an utterance does whose file is missing, damaged, or not the one in the manifest: `error`
                stops; `skip` takes the next of its epoch instead, and says so once for each file and worker.
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
        self._pools, self._degradation, self._seed = pools, degradation, seed
        self._level_db, self.segment_frames, self._stream_name = level_db, segment_frames, stream_name
        if on_bad_file not in ("error", "skip"):
            raise ValueError(f"on_bad_file is {on_bad_file!r}; it should be error or skip")
        self._order = Order(manifest, seed, weights)
        self._decoder = CropReader(manifest, root, sample_rate_hz, cache_mb=cache_mb)
        self._skips, self._bad = on_bad_file == "skip", set[int]()
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
        rng = stream(self._seed, self._stream_name, step, slot)
        # Drawn whatever the settings and the file, so that the degradation hangs on neither.
        crop, level, segment = rng.random(3)
        utterance, decoded = self._utterance(step * self.batch_size + slot, float(crop))
        gain = self._gain(decoded, float(level))
        clean = decoded.clean * gain
        valid_frames = decoded.valid_frames
        target = clean.copy() if self.sample_rate_hz == CLEAN_RATE_HZ else decoded.target * gain
        segment_start = int(segment * (max(0, valid_frames - self.segment_frames) + 1)) if self.segment_frames else 0
        return {
            "clean": torch.from_numpy(clean),
            "degraded": torch.from_numpy(self._degraded(clean, rng)),
            "target": torch.from_numpy(target),
            "valid_frames": torch.tensor(valid_frames),
            "segment_start": torch.tensor(segment_start),
            "utterance": torch.tensor(utterance),
        }

    @property
    def _crop_samples(self) -> int:
        return self.crop_frames * CLEAN_RATE_HZ // FRAMES_PER_SECOND

    def _utterance(self, number: int, crop: float) -> tuple[int, Crop]:
        """Return the utterance of the example with this number in the whole of training, and its crop.

        Raises:
            AudioError: it cannot be used, and nothing may or can replace it.
        """
        for utterance in self._order.candidates(number):
            try:
                return utterance, self._decoder.crop(utterance, crop, self.crop_frames)
            except AudioError as error:
                if not self._skips:
                    raise
                if utterance not in self._bad:
                    self._bad.add(utterance)
                    log.warning("Skipped a bad file, number %s in this process: %s", len(self._bad), error)
        raise AudioError(f"none of the {len(self.manifest)} utterances can be read")

    def _gain(self, decoded: Crop, level: float) -> np.float32:
        """Return what lifts the utterance to the level drawn as a part of the range, or as far as its peak lets it."""
        if decoded.peak == 0.0:
            return np.float32(1.0)
        low, high = self._level_db
        gain = 10 ** ((low + (high - low) * level - decoded.level_db) / 20)
        return np.float32(min(gain, HIGHEST_PEAK / decoded.peak))

    def _degraded(self, clean: Wave, rng: np.random.Generator) -> Wave:
        if self._degradation is None or self._pools is None:
            return clean.copy()
        return apply(clean, draw(rng, self._degradation, self._pools, len(clean)), self._pools)
