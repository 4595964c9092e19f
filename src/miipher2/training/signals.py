"""SIGTERM and SIGINT as a request to stop after the current update, so that a checkpoint can be saved."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """The number of the signal that asked to stop, or None."""

    signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


class Interrupted(SystemExit):
    """A signal stopped training after a checkpoint was saved; the exit code is 128 plus the signal's number."""


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Collect SIGTERM and SIGINT in the block; a second one ends the process at once.

    Not under `torchrun`, which passes on a signal that the scheduler has already sent to its processes, and itself ends
    those that take longer than 30 s.
    """
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def record(number: int, frame: FrameType | None) -> None:
        request.signal_number = number
        for each in before if "TORCHELASTIC_RUN_ID" not in os.environ else ():
            signal.signal(each, signal.SIG_DFL)

    for number in before:
        signal.signal(number, record)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
