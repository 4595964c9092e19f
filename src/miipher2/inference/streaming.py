"""One recording on its way through the networks: its windows out, their features in, chunks out, waves in."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from miipher2.inference.front_end import PieceFrontEnd, Scales
from miipher2.inference.hearing import Block, Source, heard
from miipher2.inference.threads import ahead
from miipher2.inference.windows import Grid, Joiner
from miipher2.models.encoder.logmel_frontend import HOP_SAMPLES, SAMPLE_RATE_HZ

KEPT_SECONDS = 60  # a recording up to this long stays in memory between its two readings


@dataclass(frozen=True)
class Plan:
    """How recordings are cut: the encoder's windows, and chunks of `chunk_frames` for the vocoder.

    `halo_frames` on each side of a chunk are what its samples depend on, and as much of the recording's mirror image
    precedes and follows it. `follow` takes the features of some frames, and how far the vocoder's fundamental is in its
    cycle at the first of them, to that at the last.
    """

    grid: Grid
    sample_rate_hz: int
    hop_samples: int
    halo_frames: int
    chunk_frames: int
    follow: Callable[[Float32[np.ndarray, "frame dim"], float], float]


@dataclass(frozen=True)
class Window:
    """What the encoder hears at once of one channel: the values of frames [start, stop) and of their neighbourhood."""

    passage: "Passage"
    channel: int
    start: int
    stop: int
    wave: Float32[np.ndarray, " time"]
    outside: tuple[int, int]
    scales: Scales


@dataclass(frozen=True)
class Chunk:
    """What the vocoder is given at once of one channel: the features of some frames, a halo on both sides.

    The first of them is frame `start` of the channel; there the vocoder's fundamental is so many `cycles` on.
    """

    passage: "Passage"
    channel: int
    features: Float32[np.ndarray, "frame dim"]
    start: int
    cycles: float


class Passage:
    """A recording, read once for its statistics; then its windows are to be asked for and answered in order.

    Raises:
        AudioError: the recording cannot be read to its end.
    """

    def __init__(self, source: Source, plan: Plan, front_end: PieceFrontEnd) -> None:
        self.source, self.plan, self._front_end = source, plan, front_end
        self.samples = round(source.samples * plan.sample_rate_hz / source.sample_rate_hz)
        heard_samples = -(-source.samples * SAMPLE_RATE_HZ // source.sample_rate_hz)
        frames = max(-(-heard_samples // HOP_SAMPLES), -(-self.samples // plan.hop_samples))
        self.frames = frames + 2 * plan.halo_frames
        self.failure: ValueError | None = None
        self._given = 0
        self._kept: list[Block] | None = [] if source.samples <= KEPT_SECONDS * source.sample_rate_hz else None
        self._scales = self._read_first()
        self._channels = {channel: _Channel(plan, self.frames) for channel in self._scales if self.samples}

    @property
    def is_done(self) -> bool:
        """Say whether all of it was given out, or will not be."""
        return self._given == self.samples or self.failure is not None

    def windows(self) -> Iterator[Window]:
        """Yield the windows of all channels that are not silent, the earliest first."""
        side = self._front_end.side_samples
        reader = _Reader(self._heard() if self._kept is not None else ahead(self._heard(), 2), side)
        for start, stop in self.plan.grid.spans(self.frames) if self._channels else ():
            waves = reader.take(start * HOP_SAMPLES, stop * HOP_SAMPLES + 2 * side)
            outside = (side if start == 0 else 0, side if stop == self.frames else 0)
            for channel in self._channels:
                yield Window(self, channel, start, stop, waves[channel], outside, self._scales[channel])

    def hear(self, window: Window, features: Float32[np.ndarray, "frame dim"]) -> Iterator[Chunk]:
        """Take the features of a window and yield the chunks that are now complete."""
        for chunk in self._channels[window.channel].hear(window.start, window.stop, features):
            yield Chunk(self, window.channel, *chunk)

    def say(self, chunk: Chunk, wave: Float32[np.ndarray, " time"]) -> None:
        """Take the wave of a chunk, halo included."""
        hop, halo = self.plan.hop_samples, self.plan.halo_frames
        stop = (len(chunk.features) - halo) * hop
        self._channels[chunk.channel].said.append(wave[halo * hop : stop])

    def blocks(self) -> Iterator[Block]:
        """Yield what is finished in all channels."""
        while not self.is_done and all(channel.said for channel in self._channels.values()):
            left = self.samples - self._given
            ready = {number: channel.said.popleft()[:left] for number, channel in self._channels.items()}
            length = min([left, self.plan.chunk_frames * self.plan.hop_samples, *map(len, ready.values())])
            block = np.zeros((self.source.channels, length), np.float32)
            for number, wave in ready.items():
                block[number] = wave
            self._given += length
            yield block

    def _read_first(self) -> dict[int, Scales]:
        """Read the recording once; return the scales of each channel that is not silent."""
        moments = [self._front_end.first_pass() for _ in range(self.source.channels)]
        is_heard = np.zeros(self.source.channels, bool)
        for block in heard(self.source, *self._extent()):
            for channel, values in zip(moments, block, strict=True):
                channel.add(values)
            is_heard |= block.any(axis=1)
            if self._kept is not None:
                self._kept.append(block)
        return {number: moments[number].finish() for number in np.flatnonzero(is_heard).tolist()}

    def _heard(self) -> Iterator[Block]:
        return heard(self.source, *self._extent()) if self._kept is None else iter(self._kept)

    def _extent(self) -> tuple[int, int]:
        return self.plan.halo_frames * HOP_SAMPLES, self.frames * HOP_SAMPLES


class _Channel:
    """The features of one channel on their way from windows to chunks."""

    def __init__(self, plan: Plan, frames: int) -> None:
        self._plan, self._frames = plan, frames
        self._joiner = Joiner(plan.grid, frames)
        self._features: Float32[np.ndarray, "frame dim"] | None = None
        self._first = 0  # frame of the first of them
        self._cycles = 0.0  # of the vocoder's fundamental there
        self.said: deque[Float32[np.ndarray, " time"]] = deque()

    def hear(
        self, start: int, stop: int, features: Float32[np.ndarray, "frame dim"]
    ) -> Iterator[tuple[Float32[np.ndarray, "frame dim"], int, float]]:
        """Take a window's features, and yield the chunks that are complete: features, first frame and its cycles."""
        joined = self._joiner.add(start, stop, features)
        held = joined if self._features is None else np.concatenate([self._features, joined])
        chunk, halo = self._plan.chunk_frames, self._plan.halo_frames
        at_end = self._first + len(held) == self._frames
        while len(held) >= chunk + 2 * halo or (at_end and len(held) > 2 * halo):
            yield held[: chunk + 2 * halo], self._first, self._cycles
            self._cycles = self._plan.follow(held[: chunk + 1], self._cycles)
            held, self._first = held[chunk:], self._first + chunk
        self._features = held.copy()


class _Reader:
    """Slices of a stream of blocks that overlap and are asked for in order; `side` zeros before it and after it."""

    def __init__(self, blocks: Iterator[Block], side: int) -> None:
        self._blocks, self._side = blocks, side
        self._held: Block | None = None
        self._start = 0

    def take(self, start: int, stop: int) -> Block:
        """Return the values [start, stop), counted from the first of the zeros before the stream."""
        if self._held is None:
            self._held = np.pad(next(self._blocks), ((0, 0), (self._side, 0)))
        parts, length = [self._held[:, start - self._start :]], self._held.shape[1] - (start - self._start)
        while length < stop - start:
            block = next(self._blocks, None)
            if block is None:
                block = np.zeros((len(parts[0]), self._side), np.float32)
            parts.append(block)
            length += block.shape[1]
        self._held, self._start = np.concatenate(parts, 1), start
        return self._held[:, : stop - start]
