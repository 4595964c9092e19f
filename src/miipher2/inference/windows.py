"""Where an encoder attends: windows on a grid that the position in the recording alone decides, faded together."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

FRAMES_PER_SECOND = 50


@dataclass(frozen=True)
class Grid:
    """Windows of `window` frames, each beginning `window - overlap` frames after the one before; all in frames.

    In the middle of an overlap one window fades into the next over `fade` frames. What lies nearer to a window's end
    than that is context: it is attended to, and dropped. A recording of up to `window` frames is one window.

    Raises:
        ValueError: the overlap is shorter than the fade and the context that a positional convolution wants, or more
            than half the window.
    """

    window: int
    overlap: int
    fade: int = 20
    smallest_context: int = 64  # HuBERT's positional convolution sees as many frames on each side

    def __post_init__(self) -> None:
        smallest = self.fade + 2 * self.smallest_context
        if not smallest <= self.overlap <= self.window // 2:
            seconds = [frames / FRAMES_PER_SECOND for frames in (self.window, self.overlap, smallest)]
            raise ValueError(
                f"windows of {seconds[0]:g} s that overlap by {seconds[1]:g} s; "
                f"should overlap by {seconds[2]:g} s at least and by half a window at most"
            )

    def spans(self, frames: int) -> Iterator[tuple[int, int]]:
        """Yield the first frame of each window and the one after its last."""
        start = 0
        while True:
            yield start, min(start + self.window, frames)
            if start + self.window >= frames:
                return
            start += self.window - self.overlap

    def ramp(self) -> Float32[np.ndarray, "overlap 1"]:
        """Return the share of the later window over an overlap."""
        context = (self.overlap - self.fade) // 2
        steps = (np.arange(self.overlap) - context + 1) / (self.fade + 1)
        return steps.clip(0, 1).astype(np.float32)[:, None]


class Joiner:
    """Joins the features of a channel's windows, given in order, to one sequence."""

    def __init__(self, grid: Grid, frames: int) -> None:
        self._overlap, self._ramp, self._frames = grid.overlap, grid.ramp(), frames
        self._tail: Float32[np.ndarray, "overlap dim"] | None = None

    def add(
        self, start: int, stop: int, features: Float32[np.ndarray, "frame dim"]
    ) -> Float32[np.ndarray, "joined dim"]:
        """Take the features of the window over [start, stop) and return those that no later window changes."""
        assert len(features) == stop - start
        if self._tail is not None:
            faded = self._tail + self._ramp * (features[: self._overlap] - self._tail)
            features = np.concatenate([faded, features[self._overlap :]])
        if stop == self._frames:
            return features
        self._tail = features[-self._overlap :]
        return features[: -self._overlap]
