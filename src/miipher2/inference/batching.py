"""Batches through the networks: windows of many recordings to features, chunks of features to waves."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from miipher2.inference.front_end import PieceFrontEnd
from miipher2.inference.hearing import Block
from miipher2.inference.streaming import Chunk, Passage, Window
from miipher2.inference.weights import Vocoder
from miipher2.models.encoder.encoder import EncoderFrames, SpeechEncoder
from miipher2.models.encoder.logmel_frontend import HOP_SAMPLES
from miipher2.models.vocoder.generator import ChunkPosition

LONGEST_STEP = 64  # frames; chunks are filled up to a multiple of at most that
BATCHES_AHEAD = 4  # so many batches of windows are sorted by length before they are made: less padding

Part = TypeVar("Part", Window, Chunk)


class Networks:
    """Encoder with adapters, and vocoder, on a device; float32 or, with `bf16`, autocast to bfloat16.

    Args:
        longest_chunk: frames of the longest chunk, its halo included.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        front_end: PieceFrontEnd,
        vocoder: Vocoder,
        device: torch.device,
        precision: str,
        longest_chunk: int,
    ) -> None:
        self.encoder, self.front_end, self.vocoder, self.device = encoder, front_end, vocoder, device
        self._precision = precision
        steps = math.ceil(longest_chunk / LONGEST_STEP)
        self._step = math.ceil(longest_chunk / steps)

    @torch.inference_mode()
    def encode(self, windows: Sequence[Window]) -> list[Float32[np.ndarray, "frame dim"]]:
        """Return each window's features, whatever stands beside it in the batch."""
        side = self.front_end.side_samples
        frames = [window.stop - window.start for window in windows]
        longest = max(frames)
        waves = np.zeros((len(windows), longest * HOP_SAMPLES + 2 * side), np.float32)
        outside = []
        for row, window in zip(waves, windows, strict=True):
            row[: len(window.wave)] = window.wave
            left, right = window.outside
            outside.append((left, right + len(row) - len(window.wave)))
        with self._autocast():
            on_device = torch.from_numpy(waves).to(self.device, non_blocking=True)
            hidden = self.front_end.frames(on_device, [window.scales for window in windows], outside)
            valid = None
            if min(frames) < longest:
                valid = (torch.arange(longest) < torch.tensor(frames)[:, None]).to(self.device)
                hidden = hidden.masked_fill(~valid[..., None], 0)
            features = self.encoder.encode_frames(EncoderFrames(hidden, valid), adapted=True)
        return [row[:count] for row, count in zip(_to_numpy(features), frames, strict=True)]

    @torch.inference_mode()
    def vocode(self, chunks: Sequence[Chunk]) -> list[Float32[np.ndarray, " time"]]:
        """Return each chunk's wave, its halo included; only what lies within the halo is of the whole recording.

        Waves may go on after their chunk's end.
        """
        if self.device.type == "cpu" and len(chunks) > 1:  # together they leave the caches: twice the time
            return [wave for chunk in chunks for wave in self._vocode([chunk])]
        return self._vocode(chunks)

    @torch.inference_mode()
    def follow(self, features: Float32[np.ndarray, "frame dim"], cycles: float) -> float:
        """Return how far the vocoder's fundamental is in its cycle at the last of some frames, from the first."""
        return self.vocoder.follow(torch.from_numpy(features).to(self.device), cycles)

    def _vocode(self, chunks: Sequence[Chunk]) -> list[Float32[np.ndarray, " time"]]:
        longest = max(len(chunk.features) for chunk in chunks)
        # Of few different lengths, since a first time of each is dear: on a CPU in bfloat16 up to six times the others.
        longest = -(-longest // self._step) * self._step
        features = np.zeros((len(chunks), longest, chunks[0].features.shape[1]), np.float32)
        for row, chunk in zip(features, chunks, strict=True):
            row[: len(chunk.features)] = chunk.features
        place = ChunkPosition(
            torch.tensor([chunk.start for chunk in chunks]).to(self.device),
            torch.tensor([chunk.cycles for chunk in chunks]).to(self.device),
        )
        with self._autocast():
            waves = self.vocoder.at(torch.from_numpy(features).to(self.device, non_blocking=True), place)
        return list(_to_numpy(waves))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16")


def restore_all(
    networks: Networks, passages: Iterable[Passage], batch_size: int
) -> Iterator[tuple[Passage, Block | None]]:
    """Yield the restored blocks of recordings, each recording's in order, and None when it is done or has failed.

    A recording that fails says why in `failure`; the others go on.
    """
    windows = _windows(passages)
    depth = batch_size if batch_size == 1 else BATCHES_AHEAD * batch_size
    while group := list(islice(windows, depth)):
        passages_here = list(dict.fromkeys(passage for passage, _ in group))
        wanted = [window for _, window in group if window is not None]
        chunks: list[Chunk] = []
        encoded = _batched(networks.encode, wanted, lambda window: window.stop - window.start, batch_size)
        for window, features in zip(wanted, encoded, strict=True):
            chunks.extend(window.passage.hear(window, features))
        waves = _batched(networks.vocode, chunks, lambda chunk: len(chunk.features), batch_size)
        for chunk, wave in zip(chunks, waves, strict=True):
            if not np.isfinite(wave).all() and chunk.passage.failure is None:
                chunk.passage.failure = ValueError(
                    "the networks made values that are not finite of it; are its values in [-1, 1]?"
                )
            chunk.passage.say(chunk, wave)
        for passage in passages_here:
            for block in passage.blocks():
                yield passage, block
            if passage.is_done:
                yield passage, None


def _windows(passages: Iterable[Passage]) -> Iterator[tuple[Passage, Window | None]]:
    """Yield all windows of all recordings; a recording without any, silent or empty, once without."""
    for passage in passages:
        is_silent = True
        try:
            for window in passage.windows():
                is_silent = False
                yield passage, window
                if passage.failure is not None:
                    break
        except (ValueError, OSError) as error:  # the second reading of a file that has changed since the first
            passage.failure = ValueError(str(error))
            is_silent = True
        if is_silent:
            yield passage, None


def _batched(
    network: Callable[[Sequence[Part]], list[np.ndarray]],
    parts: Sequence[Part],
    length: Callable[[Part], int],
    batch_size: int,
) -> list[np.ndarray]:
    """Return what a network makes of parts, in their order, in batches of similar length."""
    order = sorted(range(len(parts)), key=lambda index: length(parts[index]))
    made: dict[int, np.ndarray] = {}
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        made.update(zip(batch, network([parts[index] for index in batch]), strict=True))
    return [made[index] for index in range(len(parts))]


def _to_numpy(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()
