"""SpeechDataset: training examples, each a function of (seed, step, slot) and of nothing else."""

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.utils.data import Dataset

from miipher2.audio.decode import AudioError
from miipher2.config.schema_data import FRAMES_PER_SECOND, HOP_SAMPLES, SAMPLE_RATE_HZ, DataConfig, DegradationConfig
from miipher2.data.crop_reader import Crop, CropReader
from miipher2.data.degradations.chain import apply, check_pools, draw
from miipher2.data.manifest import Manifest
from miipher2.data.pools import Pools
from miipher2.data.sampler import UtteranceSampler
from miipher2.rng import stream

log = logging.getLogger(__name__)

MAX_PEAK = 0.99  # of clean speech, whatever level is drawn


class SpeechDataset(Dataset[dict[str, Tensor]]):
    """Crops of clean speech with their degraded form, by (step, slot); slot runs over the global batch.

    The degraded side of a recorded pair is the recording's same crop, with the gain of the clean side; only with
    `data.degrade_recorded` is it degraded further.

    Every epoch goes through the utterances once, in an order of its own; a batch may span two epochs.

    Args:
        manifest: the utterances of one split.
        pools: what degradations read.
        data: the crop, its level, the segment, and what to do with a bad file.
        degradation: None leaves the degraded side as clean as the other, which costs less.
        batch_size: examples in the global batch, over all ranks.
        sample_rate_hz: of the target; a multiple of 50.
        stream_name: keys the random streams, so that training and validation draw differently.
        weights: each corpus's share of the examples; None takes every utterance equally often.
        cache_mb: memory for decoded files, in each worker.

    Raises:
        ValueError: the manifest or a pool that the degradation reads is empty, a weight is out of range, or recordings
            are to be degraded where there are none.
    """

    def __init__(
        self,
        manifest: Manifest,
        pools: Pools,
        data: DataConfig,
        degradation: DegradationConfig | None,
        *,
        root: Path,
        seed: int,
        batch_size: int,
        sample_rate_hz: int,
        stream_name: str = "example",
        weights: Mapping[str, float] | None = None,
        cache_mb: int | float = 256.0,
    ) -> None:
        if len(manifest) == 0:
            raise ValueError("the manifest holds no utterance to make examples of; does this split have any?")
        if data.degrade_recorded and not manifest.has_pairs:
            raise ValueError(
                "data.degrade_recorded=true: the prepared data has no recorded pairs; should be null, or prepare pairs "
                "(data=pairs)"
            )
        self._is_simulated = not manifest.has_pairs or bool(data.degrade_recorded)
        if degradation is not None and self._is_simulated:
            check_pools(degradation, pools)
        assert sample_rate_hz % FRAMES_PER_SECOND == 0, sample_rate_hz
        self.manifest, self.batch_size, self.sample_rate_hz = manifest, batch_size, sample_rate_hz
        self.crop_frames, self.segment_frames = round(data.crop_seconds * FRAMES_PER_SECOND), data.segment_frames
        self._pools, self._data, self._degradation = pools, data, degradation
        self._seed, self._stream_name = seed, stream_name
        self._sampler = UtteranceSampler(manifest, seed, weights)
        self._reader = CropReader(
            manifest, root, sample_rate_hz, cache_mb=cache_mb, with_degraded=degradation is not None
        )
        self._bad_utterances: set[int] = set()

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Tensor]:
        """Return example `(step, slot)`: batch `step` makes update `step + 1`, slots run from 0 to `batch_size - 1`.

        Returns:
            clean and degraded [time] at 16 kHz and target [time] at `sample_rate_hz`, all of the same crop and zero
            beyond the utterance; valid_frames, the frames that hold audio; segment_start, a frame; utterance, its
            number in the manifest.

        Raises:
            AudioError: the utterance's file is missing, unreadable, or differs from the manifest, and is not skipped.
        """
        step, slot = index
        if step < 0 or not 0 <= slot < self.batch_size:
            raise IndexError(f"example (step {step}, slot {slot}) of batches of {self.batch_size}")
        rng = stream(self._seed, self._stream_name, step, slot)
        # Always drawn, so that the degradation depends on neither configuration nor file.
        position, level, segment = rng.random(3)
        utterance, crop = self._read(step * self.batch_size + slot, float(position))
        gain = self._gain(crop, float(level))
        clean = crop.clean * gain
        target = clean.copy() if self.sample_rate_hz == SAMPLE_RATE_HZ else crop.target * gain
        spare_frames = max(0, crop.valid_frames - (self.segment_frames or 0))
        segment_start = int(segment * (spare_frames + 1)) if self.segment_frames else 0
        degraded = clean if crop.degraded is None else _limit(crop.degraded * gain)
        if self._degradation is not None and self._is_simulated:  # drawn last: nothing else depends on it
            degraded = apply(degraded, draw(rng, self._degradation, self._pools, len(clean)), self._pools)
        return {
            "clean": torch.from_numpy(clean),
            "degraded": torch.from_numpy(degraded),
            "target": torch.from_numpy(target),
            "valid_frames": torch.tensor(crop.valid_frames),
            "segment_start": torch.tensor(segment_start),
            "utterance": torch.tensor(utterance),
        }

    def _read(self, example: int, position: float) -> tuple[int, Crop]:
        """Return the utterance of an example, numbered from the start of training, and its crop."""
        for utterance in self._sampler.candidates(example):
            try:
                return utterance, self._reader.read(utterance, position, self.crop_frames)
            except AudioError as error:
                if self._data.on_bad_file == "error":
                    raise
                if utterance not in self._bad_utterances:
                    self._bad_utterances.add(utterance)
                    log.warning("Skipped a bad file (number %s in this process): %s", len(self._bad_utterances), error)
        raise AudioError(f"none of the {len(self.manifest)} utterances can be read")

    def _gain(self, crop: Crop, level: float) -> np.float32:
        """Return the gain to a level, drawn relative to its range, that keeps the utterance's peak below full scale."""
        if crop.peak == 0.0:
            return np.float32(1.0)
        low, high = self._data.level_db
        gain = 10 ** ((low + (high - low) * level - crop.level_db) / 20)
        return np.float32(min(gain, MAX_PEAK / crop.peak))


def _limit(wave: Float32[np.ndarray, "time"]) -> Float32[np.ndarray, "time"]:
    """Return a wave turned down as a whole where it exceeds full scale, as `apply` does."""
    return wave / np.maximum(np.float32(1.0), np.abs(wave).max())


def collate_to_longest(min_frames: int, examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return a batch that is cut after its longest example, but not before `min_frames`."""
    crop_frames = len(examples[0]["clean"]) // HOP_SAMPLES
    frames = max(min_frames, *(int(example["valid_frames"]) for example in examples))
    return torch.utils.data.default_collate(
        [
            {name: value[: len(value) // crop_frames * frames] if value.ndim else value for name, value in each.items()}
            for each in examples
        ]
    )
