"""What the encoder hears of a recording: 16 kHz, and continued at both ends by its mirror image."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from miipher2.audio.resample import StreamResampler
from miipher2.models.encoder.logmel_frontend import SAMPLE_RATE_HZ

Block = Float32[np.ndarray, "channel time"]


@runtime_checkable
class Source(Protocol):
    """A recording that can be read forwards, as often as wanted; `samples` counts the values of one channel."""

    sample_rate_hz: int
    channels: int
    samples: int

    def blocks(self) -> Iterator[Block]:
        """Yield it from its beginning."""


def heard(source: Source, lead_samples: int, total_samples: int) -> Iterator[Block]:
    """Yield the recording at 16 kHz after `lead_samples` of its mirror image, and filled up with it to the total.

    A network that meets the hard edge of a file answers with a pop: with silence, or with the zeros that its
    convolutions are padded with, the signal steps. Its mirror image goes on as it was.
    """
    blocks = _resampled(source)
    head: list[Block] = []
    while sum(block.shape[1] for block in head) < lead_samples and (block := next(blocks, None)) is not None:
        head.append(block)
    first = np.concatenate(head, 1)
    yield np.pad(first, ((0, 0), (lead_samples, 0)), mode="symmetric")
    given, tail, kept = lead_samples + first.shape[1], first, 4 * lead_samples
    for block in blocks:
        yield block
        given += block.shape[1]
        tail = np.concatenate([tail, block], 1)[:, -kept:]
    rest = total_samples - given
    assert rest >= 0
    yield np.pad(tail, ((0, 0), (0, rest)), mode="symmetric")[:, tail.shape[1] :]


def _resampled(source: Source) -> Iterator[Block]:
    resampler = StreamResampler(source.sample_rate_hz, SAMPLE_RATE_HZ, source.channels)
    for block in source.blocks():
        yield resampler.push(block)
    yield resampler.finish()
