"""Streaming: a recording of any length as windows for the encoder and chunks for the vocoder. Runs no network.

A recording is read twice: for its statistics, then for its windows. At both ends it is continued by its mirror image:
with silence, or with the zeros that convolutions are padded with, the signal steps, and the vocoder answers with a pop.
"""

import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64

from miipher2.audio.levels import LevelMeter, speech_gain
from miipher2.audio.resample import StreamResampler
from miipher2.config.schema_data import FRAMES_PER_SECOND, HOP_SAMPLES, SAMPLE_RATE_HZ
from miipher2.inference.options import FADE_FRAMES
from miipher2.models.encoder.conv_frontend import WaveFrontEnd
from miipher2.models.encoder.logmel_frontend import LogMelFrontEnd, Scales

CACHED_SECONDS = 60  # a recording up to this long stays in memory between its two readings

Block = Float32[np.ndarray, "channel time"]
Item = TypeVar("Item")


@runtime_checkable
class AudioSource(Protocol):
    """A recording that can be read from its beginning more than once; `samples` counts the values of one channel."""

    sample_rate_hz: int
    channels: int
    samples: int

    def blocks(self) -> Iterator[Block]:
        """Yield the recording block by block."""


@dataclass(frozen=True)
class WindowGrid:
    """Attention windows of `window` frames, of which neighbours share `overlap` frames; position alone decides them.

    In the middle of an overlap one window fades into the next. What is nearer to a window's end is context: it is
    attended to, and dropped. A recording of up to `window` frames is one window.
    """

    window: int
    overlap: int

    def spans(self, frames: int) -> Iterator[tuple[int, int]]:
        """Yield the first frame of each window and the one after its last."""
        start = 0
        while True:
            yield start, min(start + self.window, frames)
            if start + self.window >= frames:
                return
            start += self.window - self.overlap

    def ramp(self) -> Float32[np.ndarray, "overlap 1"]:
        """Return the weight of the later window over an overlap."""
        context = (self.overlap - FADE_FRAMES) // 2
        steps = (np.arange(self.overlap) - context + 1) / (FADE_FRAMES + 1)
        return steps.clip(0, 1).astype(np.float32)[:, None]


class CrossFader:
    """Joins the features of one channel's windows, in order, to one sequence."""

    def __init__(self, grid: WindowGrid, frames: int) -> None:
        self._overlap, self._ramp, self._frames = grid.overlap, grid.ramp(), frames
        self._tail: Float32[np.ndarray, "overlap dim"] | None = None

    def add(
        self, start: int, stop: int, features: Float32[np.ndarray, "frame dim"]
    ) -> Float32[np.ndarray, "joined dim"]:
        """Add the features of the window over [start, stop) and return those that no later window changes."""
        assert len(features) == stop - start
        if self._tail is not None:
            faded = self._tail + self._ramp * (features[: self._overlap] - self._tail)
            features = np.concatenate([faded, features[self._overlap :]])
        if stop == self._frames:
            return features
        self._tail = features[-self._overlap :]
        return features[: -self._overlap]


@dataclass(frozen=True)
class StreamLayout:
    """How recordings are cut.

    Args:
        grid: the encoder's windows.
        chunk_frames: frames of the vocoder's chunks.
        context_frames: frames on each side of a chunk that its samples depend on; as much of the mirror image precedes
            and follows the recording.
        sample_rate_hz, hop_samples: of the vocoder's output.
    """

    grid: WindowGrid
    chunk_frames: int
    context_frames: int
    sample_rate_hz: int
    hop_samples: int


@dataclass(frozen=True)
class Window:
    """The encoder's input for frames [start, stop) of one channel, with the front end's context on both sides.

    Args:
        outside_samples: how many values at the beginning and at the end of `wave` lie outside the recording.
        scales: statistics of the whole channel.
    """

    stream: "RecordingStream"
    channel: int
    start: int
    stop: int
    wave: Float32[np.ndarray, " time"]
    outside_samples: tuple[int, int]
    scales: Scales


@dataclass(frozen=True)
class Chunk:
    """The vocoder's input for some frames of one channel, with context on both sides; the first is `first_frame`.

    `phase_cycles` is the phase of the vocoder's fundamental at that frame; who runs the vocoder sets it.
    """

    stream: "RecordingStream"
    channel: int
    first_frame: int
    features: Float32[np.ndarray, "frame dim"]
    phase_cycles: float = 0.0


class RecordingStream:
    """One recording on its way: `windows` out, their features in, chunks out, their waves in, `finished_blocks` out.

    Args:
        front_end: of the encoder, on the CPU: the first reading runs beside the networks.

    Attributes:
        samples: values of one channel of the output.
        input_powers: the mean square of each channel's frames of 20 ms, from the first reading.
        failure: the reason why the recording cannot be restored, if any.
        phase_cycles: of each channel's next chunk; kept here for who runs the vocoder.

    Raises:
        AudioError: the recording cannot be read to its end, or holds values that are not finite.
    """

    def __init__(self, source: AudioSource, layout: StreamLayout, front_end: WaveFrontEnd | LogMelFrontEnd) -> None:
        self.source, self.layout, self._front_end = source, layout, front_end
        self.samples = round(source.samples * layout.sample_rate_hz / source.sample_rate_hz)
        input_samples = -(-source.samples * SAMPLE_RATE_HZ // source.sample_rate_hz)
        frames = max(-(-input_samples // HOP_SAMPLES), -(-self.samples // layout.hop_samples))
        self.frames = frames + 2 * layout.context_frames
        self.failure: ValueError | None = None
        self.phase_cycles = [0.0] * source.channels
        self._yielded_samples = 0
        self._cache: list[Block] | None = [] if source.samples <= CACHED_SECONDS * source.sample_rate_hz else None
        self.input_powers: list[Float64[np.ndarray, " frame"]] = []
        self._scales = self._read_statistics()
        self._channels = {channel: _ChannelStream(layout, self.frames) for channel in self._scales if self.samples}

    @property
    def is_done(self) -> bool:
        """Return whether all of the output has been yielded, or will never be."""
        return self._yielded_samples == self.samples or self.failure is not None

    def windows(self) -> Iterator[Window]:
        """Yield the windows of all channels that are not silent, in order of time."""
        side = self._front_end.context_samples
        blocks = prefetch(self._read(), 2) if self._cache is None else iter(self._cache)
        reader = _SlidingReader(blocks, side)
        for start, stop in self.layout.grid.spans(self.frames) if self._channels else ():
            waves = reader.read(start * HOP_SAMPLES, stop * HOP_SAMPLES + 2 * side)
            outside = (side if start == 0 else 0, side if stop == self.frames else 0)
            for channel in self._channels:
                yield Window(self, channel, start, stop, waves[channel], outside, self._scales[channel])

    def add_features(self, window: Window, features: Float32[np.ndarray, "frame dim"]) -> Iterator[Chunk]:
        """Add the features of a window, and yield the chunks that are now complete."""
        for first_frame, chunk in self._channels[window.channel].add(window.start, window.stop, features):
            yield Chunk(self, window.channel, first_frame, chunk)

    def add_wave(self, chunk: Chunk, wave: Float32[np.ndarray, " time"]) -> None:
        """Add the wave of a chunk, context included."""
        hop, context = self.layout.hop_samples, self.layout.context_frames
        stop = (len(chunk.features) - context) * hop
        self._channels[chunk.channel].waves.append(wave[context * hop : stop])

    def finished_blocks(self) -> Iterator[Block]:
        """Yield the output that is complete in all channels."""
        while not self.is_done and all(channel.waves for channel in self._channels.values()):
            left = self.samples - self._yielded_samples
            ready = {number: channel.waves.popleft()[:left] for number, channel in self._channels.items()}
            length = min([left, self.layout.chunk_frames * self.layout.hop_samples, *map(len, ready.values())])
            block = np.zeros((self.source.channels, length), np.float32)
            for number, wave in ready.items():
                block[number] = wave
            self._yielded_samples += length
            yield block

    def meters(self) -> list[LevelMeter]:
        """Return a meter for each channel of the output."""
        return [LevelMeter(self.layout.sample_rate_hz // FRAMES_PER_SECOND) for _ in range(self.source.channels)]

    def gains(self, meters: Sequence[LevelMeter]) -> Float32[np.ndarray, "channel 1"]:
        """Return what each channel of the output is multiplied by to keep the level of the input's speech."""
        gains = [speech_gain(before, after) for before, after in zip(self.input_powers, meters, strict=True)]
        return np.array(gains, np.float32)[:, None]

    def _read_statistics(self) -> dict[int, Scales]:
        """Read the recording once; return the scales of each channel that is not silent."""
        statistics = [self._front_end.statistics() for _ in range(self.source.channels)]
        meters = [LevelMeter(HOP_SAMPLES) for _ in range(self.source.channels)]
        has_sound = np.zeros(self.source.channels, bool)
        for block in self._read():
            for channel, meter, values in zip(statistics, meters, block, strict=True):
                channel.add(values)
                meter.add(values)
            has_sound |= block.any(axis=1)
            if self._cache is not None:
                self._cache.append(block)
        lead = self.layout.context_frames
        self.input_powers = [meter.powers()[lead : len(meter.powers()) - lead] for meter in meters]
        return {number: statistics[number].finish() for number in np.flatnonzero(has_sound).tolist()}

    def _read(self) -> Iterator[Block]:
        """Yield the recording at 16 kHz after its mirror image, and filled up with it to `frames`."""
        lead_samples = self.layout.context_frames * HOP_SAMPLES
        blocks = self._resampled_blocks()
        head: list[Block] = []
        while sum(block.shape[1] for block in head) < lead_samples and (block := next(blocks, None)) is not None:
            head.append(block)
        first = np.concatenate(head, 1)
        yield np.pad(first, ((0, 0), (lead_samples, 0)), mode="symmetric")
        count, tail = lead_samples + first.shape[1], first
        for block in blocks:
            yield block
            count += block.shape[1]
            tail = np.concatenate([tail, block], 1)[:, -4 * lead_samples :]
        missing = self.frames * HOP_SAMPLES - count
        assert missing >= 0
        yield np.pad(tail, ((0, 0), (0, missing)), mode="symmetric")[:, tail.shape[1] :]

    def _resampled_blocks(self) -> Iterator[Block]:
        resampler = StreamResampler(self.source.sample_rate_hz, SAMPLE_RATE_HZ, self.source.channels)
        for block in self.source.blocks():
            yield resampler.push(block)
        yield resampler.finish()


class _ChannelStream:
    """One channel between windows and chunks, and the waves that wait for the other channels."""

    def __init__(self, layout: StreamLayout, frames: int) -> None:
        self._layout, self._frames = layout, frames
        self._fader = CrossFader(layout.grid, frames)
        self._features: Float32[np.ndarray, "frame dim"] | None = None
        self._first_frame = 0
        self.waves: deque[Float32[np.ndarray, " time"]] = deque()

    def add(
        self, start: int, stop: int, features: Float32[np.ndarray, "frame dim"]
    ) -> Iterator[tuple[int, Float32[np.ndarray, "frame dim"]]]:
        """Add a window's features, and yield the first frame and the features of each complete chunk."""
        joined = self._fader.add(start, stop, features)
        pending = joined if self._features is None else np.concatenate([self._features, joined])
        chunk, context = self._layout.chunk_frames, self._layout.context_frames
        at_end = self._first_frame + len(pending) == self._frames
        while len(pending) >= chunk + 2 * context or (at_end and len(pending) > 2 * context):
            yield self._first_frame, pending[: chunk + 2 * context]
            pending, self._first_frame = pending[chunk:], self._first_frame + chunk
        self._features = pending.copy()


class _SlidingReader:
    """Reads overlapping slices, in order, from a stream of blocks with `side` zeros before and after it."""

    def __init__(self, blocks: Iterator[Block], side: int) -> None:
        self._blocks, self._side = blocks, side
        self._pending: Block | None = None
        self._start = 0

    def read(self, start: int, stop: int) -> Block:
        """Return the values [start, stop), counted from the first of the zeros before the stream."""
        if self._pending is None:
            self._pending = np.pad(next(self._blocks), ((0, 0), (self._side, 0)))
        parts = [self._pending[:, start - self._start :]]
        length = parts[0].shape[1]
        while length < stop - start:
            block = next(self._blocks, None)
            if block is None:
                block = np.zeros((len(parts[0]), self._side), np.float32)
            parts.append(block)
            length += block.shape[1]
        self._pending, self._start = np.concatenate(parts, 1), start
        return self._pending[:, : stop - start]


def prefetch(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """Yield items that a thread reads up to `depth` ahead; raise here what it raises."""
    waiting: queue.Queue[tuple[str, object]] = queue.Queue(depth)
    is_closed = threading.Event()

    def put(event: str, value: object) -> None:
        while not is_closed.is_set():
            try:
                waiting.put((event, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put("item", item)
                if is_closed.is_set():
                    return
            put("end", None)
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
            put("error", error)

    thread = threading.Thread(target=read, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            event, value = waiting.get()
            if event == "end":
                return
            if event == "error":
                assert isinstance(value, BaseException)
                raise value
            yield value  # type: ignore[misc]
    finally:
        is_closed.set()
        thread.join()
