"""The options of a restoration, for Python, the command line, Ray and the demo page. Loads neither torch nor NumPy."""

import re
from dataclasses import dataclass, field
from typing import Any

from miipher2.config.schema_data import FRAMES_PER_SECOND, PRECISIONS

LEVELS = ("input", "model")
MAX_SECONDS = 86_400  # of a chunk or window
FADE_FRAMES = 20  # over which one window's features fade into the next one's
CONTEXT_FRAMES = 64  # at least, on both sides of a fade: the reach of HuBERT's positional convolution


def _option(default: str | int | float, help_text: str, **settings: Any) -> Any:
    """Return a field whose metadata describe its command-line option."""
    return field(default=default, metadata={"help": f"{help_text} (default: {default})", **settings})


@dataclass(frozen=True)
class RestoreOptions:
    """How recordings are restored; only `result_options` change the result, but for rounding.

    Raises:
        ValueError: a value is out of its range, or the overlap does not fit the window.
    """

    device: str = _option("cpu", "auto, cpu, cuda or cuda:1")
    precision: str = _option("auto", "of the networks; auto: bf16 on a GPU that has it, else fp32", choices=PRECISIONS)
    batch_size: int = _option(1, "windows per batch, from any recordings and channels", metavar="N")
    chunk_seconds: int | float = _option(10.0, "length of the vocoder's chunks; bounds memory", metavar="S")
    window_seconds: int | float = _option(20.0, "length of the encoder's attention windows", metavar="S")
    overlap_seconds: int | float = _option(3.0, "overlap of two windows", metavar="S")
    strength: int | float = _option(
        1.0, "of the cleaning, from 0 (frozen encoder and vocoder alone) to 1 (as trained)", metavar="X"
    )
    level: str = _option("input", "of the result: that of the input's speech, or the one of training", choices=LEVELS)

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"level {self.level!r}; should be one of {', '.join(LEVELS)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r}; should be one of {', '.join(PRECISIONS)}")
        if not 0 <= self.strength <= 1:
            raise ValueError(f"strength {self.strength}; should be from 0 to 1")
        object.__setattr__(self, "strength", abs(float(self.strength)))  # 1 and 1.0, 0 and -0.0 are one journal's key
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device {self.device!r}; should be auto, cpu, cuda or cuda:<index>")
        for name in ("chunk_seconds", "window_seconds", "overlap_seconds"):
            if not 0 < getattr(self, name) <= MAX_SECONDS:
                raise ValueError(f"{name} {getattr(self, name)}; should be greater than 0 and at most {MAX_SECONDS}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size {self.batch_size}; should be at least 1")
        if self.chunk_frames < 1:
            raise ValueError(f"chunk_seconds {self.chunk_seconds}; should be at least {1 / FRAMES_PER_SECOND}")
        shortest = FADE_FRAMES + 2 * CONTEXT_FRAMES
        if not shortest <= self.overlap_frames <= self.window_frames // 2:
            raise ValueError(
                f"windows of {self.window_seconds:g} s that overlap by {self.overlap_seconds:g} s; "
                f"should overlap by at least {shortest / FRAMES_PER_SECOND:g} s and at most half a window"
            )

    @property
    def chunk_frames(self) -> int:
        """Return the length of a vocoder chunk in frames."""
        return round(self.chunk_seconds * FRAMES_PER_SECOND)

    @property
    def window_frames(self) -> int:
        """Return the length of an attention window in frames."""
        return round(self.window_seconds * FRAMES_PER_SECOND)

    @property
    def overlap_frames(self) -> int:
        """Return the overlap of two windows in frames."""
        return round(self.overlap_seconds * FRAMES_PER_SECOND)

    def result_options(self) -> dict[str, str | int | float]:
        """Return the options that are part of the result: the journal compares them."""
        names = ("precision", "window_seconds", "overlap_seconds", "level", "strength")
        return {name: getattr(self, name) for name in names}
