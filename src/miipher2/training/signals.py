"""SIGTERM and SIGINT as a request to stop after the update, so that a checkpoint can be saved."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Says which signal asked to stop, if any did."""

    signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None


class Interrupted(SystemExit):
    """Training was stopped by a signal after a checkpoint was saved; the exit code is 128 + the signal's number."""


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Collect SIGTERM and SIGINT in the block; a second one ends the process at once.

    Under `torchrun` it does not: that hands on what a scheduler has sent to its processes already, and ends by itself
    those that take longer than 30 s.
    """
    request = StopRequest()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def remember(number: int, frame: FrameType | None) -> None:
        request.signal_number = number
        for known in before if "TORCHELASTIC_RUN_ID" not in os.environ else ():
            signal.signal(known, signal.SIG_DFL)

    for number in before:
        signal.signal(number, remember)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
