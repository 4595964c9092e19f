"""Batches: windows of many recordings through the encoder, chunks of their features through the vocoder."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from miipher2.config.schema_data import HOP_SAMPLES
from miipher2.inference.streaming import Block, Chunk, RecordingStream, Window
from miipher2.inference.weights import Vocoder
from miipher2.models.device import copy_to
from miipher2.models.encoder.encoder import EncoderFrames, SpeechEncoder
from miipher2.models.encoder.logmel_frontend import Scales
from miipher2.models.vocoder.generator import ChunkPosition

MAX_LENGTH_STEP = 64  # frames; chunks are padded to a multiple of at most that
BATCHES_AHEAD = 4  # as many batches of windows are sorted by length together: less padding

Item = TypeVar("Item", Window, Chunk)


class HostCopy:
    """The rows of a network's output on their way to the host; on CUDA nothing waits for them before `rows`.

    Args:
        lengths: how much of each row to keep; None keeps all.
    """

    def __init__(self, values: Float[Tensor, "row length ..."], lengths: Sequence[int] | None = None) -> None:
        self._values = values.float().to("cpu", non_blocking=True)  # into pinned memory
        self._lengths = [values.shape[1]] * len(values) if lengths is None else lengths
        self._copied = None
        if values.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def rows(self) -> list[Float32[np.ndarray, "length ..."]]:
        """Wait for the copy, and return its rows."""
        if self._copied is not None:
            self._copied.synchronize()
        return [row[:length] for row, length in zip(self._values.numpy(), self._lengths, strict=True)]


class Networks:
    """Encoder with adapters, and vocoder, on a device.

    Args:
        precision: "fp32" or "tf32", or "bf16" for autocast to bfloat16.
        strength: of the adapters.
        chunk_frames: frames of a vocoder chunk, and how many the front end makes at once: bounds memory.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        vocoder: Vocoder,
        device: torch.device,
        precision: str,
        strength: float,
        chunk_frames: int,
    ) -> None:
        self.encoder, self.vocoder, self.device = encoder, vocoder, device
        self._precision, self._strength, self._chunk_frames = precision, strength, chunk_frames
        longest = chunk_frames + 2 * vocoder.generator.context_frames
        self._length_step = math.ceil(longest / math.ceil(longest / MAX_LENGTH_STEP))

    @property
    def vocoder_batch_size(self) -> int | None:
        """How many chunks to vocode at once, if limited: on a CPU a batch exceeds the caches and is half as fast."""
        return 1 if self.device.type == "cpu" else None

    @torch.inference_mode()
    def encode(self, windows: Sequence[Window]) -> HostCopy:
        """Return what the vocoder's chunks are cut from, for each window; the rest of the batch changes nothing."""
        frames = [window.stop - window.start for window in windows]
        longest = max(frames)
        waves = self._zeros(len(windows), longest * HOP_SAMPLES + 2 * self.encoder.front_end.context_samples)
        outside = []
        for row, window in zip(waves.numpy(), windows, strict=True):
            row[: len(window.wave)] = window.wave
            left, right = window.outside_samples
            outside.append((left, right + len(row) - len(window.wave)))
        scales = Scales.stack([window.scales for window in windows], self.device)
        with self._autocast():
            hidden = self._embed(copy_to(self.device, waves), scales, outside)
            valid = None
            if min(frames) < longest:
                valid = copy_to(self.device, torch.arange(longest) < torch.tensor(frames)[:, None])
                hidden = hidden.masked_fill(~valid[..., None], 0)
            features = self.encoder.encode_frames(EncoderFrames(hidden, valid), adapted=True, strength=self._strength)
            features = self.vocoder.embed_window(features, valid)
        return HostCopy(features, frames)

    @torch.inference_mode()
    def vocode(self, chunks: Sequence[Chunk]) -> HostCopy:
        """Return each chunk's wave, context included; waves may continue after their chunk's end."""
        longest = max(len(chunk.features) for chunk in chunks)
        # Few different lengths, since the first use of each is slow: on a CPU in bfloat16 up to six times the others.
        longest = -(-longest // self._length_step) * self._length_step
        features = self._zeros(len(chunks), longest, chunks[0].features.shape[1])
        for row, chunk in zip(features.numpy(), chunks, strict=True):
            row[: len(chunk.features)] = chunk.features
        position = ChunkPosition(
            copy_to(self.device, torch.tensor([chunk.first_frame for chunk in chunks])),
            copy_to(self.device, torch.tensor([chunk.phase_cycles for chunk in chunks])),
        )
        with self._autocast():
            return HostCopy(self.vocoder.forward_chunk(copy_to(self.device, features), position))

    @torch.inference_mode()
    def set_phase(self, chunk: Chunk) -> Chunk:
        """Return a chunk with the phase at which the vocoder continues the chunk before it; call in order."""
        if not self.vocoder.generator.has_phase:
            return chunk
        phases = chunk.stream.phase_cycles
        positioned = replace(chunk, phase_cycles=phases[chunk.channel])
        features = torch.from_numpy(chunk.features[: self._chunk_frames + 1]).to(self.device)
        phases[chunk.channel] = self.vocoder.advance_phase(features, positioned.phase_cycles)
        return positioned

    def _zeros(self, *shape: int) -> Tensor:
        """Return zeros on the host, in memory from which the device copies while the host goes on."""
        return torch.zeros(shape, pin_memory=self.device.type == "cuda")

    def _embed(
        self, waves: Float[Tensor, "batch time"], scales: Scales, outside: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "batch frame dim"]:
        """Return the input of the encoder's layers for waves with context on both sides, some frames at a time.

        Args:
            outside: how many values at the beginning and at the end of each row lie outside its recording.
        """
        front_end = self.encoder.front_end
        waves = front_end.standardise(waves, scales)
        for row, (left, right) in zip(waves, outside, strict=True):
            row[:left] = 0
            row[len(row) - right :] = 0
        context = 2 * front_end.context_samples
        frames = (waves.shape[1] - context) // HOP_SAMPLES
        pieces = []
        for start in range(0, frames, self._chunk_frames):
            stop = min(start + self._chunk_frames, frames)
            piece = front_end.frames(waves[:, start * HOP_SAMPLES : stop * HOP_SAMPLES + context], scales)
            pieces.append(self.encoder.project(piece))
        return torch.cat(pieces, 1)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == "bf16")


def restore_streams(
    networks: Networks, streams: Iterable[RecordingStream], batch_size: int
) -> Iterator[tuple[RecordingStream, Block | None]]:
    """Yield the restored blocks of recordings, each recording's in order, and None when it is done or has failed.

    A recording that fails keeps the reason in `failure`; the others continue. While a device makes the waves of some
    windows, the host reads the next ones and queues their features behind.
    """
    windows = _all_windows(streams)
    depth = batch_size if batch_size == 1 and networks.device.type == "cpu" else BATCHES_AHEAD * batch_size
    vocoder_batch_size = networks.vocoder_batch_size or batch_size
    current = _Group()
    while True:
        upcoming = _Group(list(islice(windows, depth)))
        pending = [window for _, window in upcoming.windows if window is not None]
        lengths = [window.stop - window.start for window in pending]
        encoded = _run_in_batches(networks.encode, pending, lengths, batch_size)
        yield from current.finish()
        if not upcoming.windows:
            return
        # A recording that failed just now may have windows here, read before that; its end is not said twice.
        ended = {stream for stream, _ in current.windows if stream.is_done}
        upcoming.windows = [item for item in upcoming.windows if item[0] not in ended]
        upcoming.chunks = [
            networks.set_phase(chunk)
            for window, rows in zip(pending, encoded(), strict=True)
            for chunk in window.stream.add_features(window, rows)
        ]
        lengths = [len(chunk.features) for chunk in upcoming.chunks]
        upcoming.waves = _run_in_batches(networks.vocode, upcoming.chunks, lengths, vocoder_batch_size)
        current = upcoming


@dataclass
class _Group:
    """Windows of recordings that go through the networks together; a recording without any is there once, with None.

    Args:
        chunks: that are complete with these windows.
        waves: waits for the chunks' waves and returns them.
    """

    windows: list[tuple[RecordingStream, Window | None]] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    waves: Callable[[], list[Float32[np.ndarray, " time"]]] = list

    def finish(self) -> Iterator[tuple[RecordingStream, Block | None]]:
        """Wait for the waves, and yield the blocks that they complete, and None where a recording ends."""
        for chunk, wave in zip(self.chunks, self.waves(), strict=True):
            if not np.isfinite(wave).all() and chunk.stream.failure is None:
                chunk.stream.failure = ValueError(
                    "its restoration holds values that are not finite; the input should be in [-1, 1]"
                )
            chunk.stream.add_wave(chunk, wave)
        for stream in dict.fromkeys(stream for stream, _ in self.windows):
            for block in stream.finished_blocks():
                yield stream, block
            if stream.is_done:
                yield stream, None


def _all_windows(streams: Iterable[RecordingStream]) -> Iterator[tuple[RecordingStream, Window | None]]:
    """Yield all windows of all recordings; a recording without any, silent or empty, once with None."""
    for stream in streams:
        is_empty = True
        try:
            for window in stream.windows():
                is_empty = False
                yield stream, window
                if stream.failure is not None:
                    break
        except (ValueError, OSError) as error:  # the file has changed since its first reading
            stream.failure = ValueError(str(error))
            is_empty = True
        if is_empty:
            yield stream, None


def _run_in_batches(
    network: Callable[[Sequence[Item]], HostCopy],
    items: Sequence[Item],
    lengths: Sequence[int],
    batch_size: int,
) -> Callable[[], list[np.ndarray]]:
    """Run a network on items in batches of similar length; return what waits for the results, in the items' order."""
    order = sorted(range(len(items)), key=lengths.__getitem__)
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    copies = [network([items[index] for index in batch]) for batch in batches]

    def results() -> list[np.ndarray]:
        rows = dict(
            pair for batch, copy in zip(batches, copies, strict=True) for pair in zip(batch, copy.rows(), strict=True)
        )
        return [rows[index] for index in range(len(items))]

    return results
