"""A job over many recordings: reading, networks and writing overlap; failures are collected, finished files skipped."""

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from miipher2.atomic_io import sha256_of
from miipher2.audio.levels import LevelMeter
from miipher2.audio.stream import Recording, RecordingWriter
from miipher2.inference.files import Task
from miipher2.inference.journal import Journal
from miipher2.inference.restorer import Restorer
from miipher2.inference.streaming import Block, RecordingStream

MAX_WAITING_BLOCKS = 16  # restored blocks that may wait for being written

# Called with a task, the share of it done since the last call, and the seconds of audio restored since then.
Progress = Callable[[Task, float, float], None]


@dataclass
class Outcome:
    """The results of a job; `seconds` of audio were restored."""

    restored: list[Task] = field(default_factory=list)
    skipped: list[Task] = field(default_factory=list)
    failed: list[tuple[Task, str]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: "Outcome") -> None:
        """Add the results of another job."""
        self.restored += other.restored
        self.skipped += other.skipped
        self.failed += other.failed
        self.seconds += other.seconds


class Job:
    """Restores recordings to files.

    Args:
        journal: None does every task, and keeps no record.
        workers: threads that read, and as many that write.
        on_progress: a skipped or failed task reports a share of 1, whatever it has reported before.
    """

    def __init__(
        self,
        restorer: Restorer,
        journal: Journal | None,
        *,
        workers: int = 2,
        on_progress: Progress = lambda task, share, seconds: None,
    ) -> None:
        self.restorer, self.journal, self.workers, self.on_progress = restorer, journal, workers, on_progress
        self.outcome = Outcome()
        self._lock = threading.Lock()
        self._outputs: dict[RecordingStream, _Output] = {}

    def run(self, tasks: Sequence[Task]) -> Outcome:
        """Do all tasks and return their results; raise only an error that concerns all of them."""
        free = threading.BoundedSemaphore(MAX_WAITING_BLOCKS + self.workers)
        with ExitStack() as stack:
            stack.callback(self._discard_unfinished)  # last, when no thread writes any more
            readers = stack.enter_context(ThreadPoolExecutor(self.workers, "read"))
            # One of these writes all blocks of a recording, in order.
            writers = [stack.enter_context(ThreadPoolExecutor(1, "write")) for _ in range(self.workers)]
            writes: list[Future[None]] = []
            streams = self._open_streams(readers, tasks)
            for number, (stream, block) in enumerate(self.restorer.restore_streams(streams)):
                output = self._outputs[stream]
                if output.executor is None:
                    output.executor = writers[number % len(writers)]
                free.acquire()
                future = output.executor.submit(self._write, output, stream, block)
                future.add_done_callback(lambda _: free.release())
                writes = [*(each for each in writes if not each.done() or each.exception()), future]
            for future in writes:
                future.result()  # raises what is no file's failure
        return self.outcome

    def _open_streams(self, readers: ThreadPoolExecutor, tasks: Sequence[Task]) -> Iterator[RecordingStream]:
        """Yield the recordings to restore in order, each read once; threads read some of them ahead."""
        depth = max(self.workers, 2 * self.restorer.options.batch_size)
        waiting: deque[tuple[Task, Future[tuple[str, RecordingStream | None]]]] = deque()
        remaining = iter(tasks)
        while True:
            while len(waiting) <= depth and (task := next(remaining, None)) is not None:
                waiting.append((task, readers.submit(self._open, task)))
            if not waiting:
                return
            task, future = waiting.popleft()
            try:
                input_sha256, stream = future.result()
            except (ValueError, OSError) as error:
                self._fail(task, error)
                continue
            if stream is None:
                self.outcome.skipped.append(task)
                self.on_progress(task, 1.0, 0.0)
                continue
            writer_id = None if self.journal is None else self.journal.writer_id
            self._outputs[stream] = _Output(task, input_sha256, self.restorer, writer_id)
            yield stream

    def _open(self, task: Task) -> tuple[str, RecordingStream | None]:
        """Return the digest of a recording and, unless its restoration is finished, the recording, read once."""
        recording = Recording(task.source)
        if self.journal is None:
            return "", self.restorer.open(recording)
        input_sha256 = sha256_of(task.source)
        return input_sha256, None if self.journal.is_done(task, input_sha256) else self.restorer.open(recording)

    def _write(self, output: "_Output", stream: RecordingStream, block: Block | None) -> None:
        """Write a block, or end the file; runs in the recording's own thread."""
        task = output.task
        if output.has_failed:
            if block is None:
                self._outputs.pop(stream, None)
            return
        try:
            if block is not None:
                output.write(stream, block)
                self.on_progress(task, block.shape[1] / stream.samples, block.shape[1] / self.restorer.sample_rate_hz)
                return
            if stream.failure is not None:
                raise stream.failure
            if self.journal is not None:
                self.journal.record_start(task)
            output_sha256 = output.finish(stream)
            if self.journal is not None:
                self.journal.record_done(task, output.input_sha256, output_sha256)
            with self._lock:
                self.outcome.restored.append(task)
                self.outcome.seconds += stream.source.samples / stream.source.sample_rate_hz
                del self._outputs[stream]
        except (ValueError, OSError) as error:
            output.has_failed = True
            output.discard()
            stream.failure = stream.failure or ValueError(str(error))
            self._fail(task, error)
            if block is None:
                self._outputs.pop(stream, None)

    def _fail(self, task: Task, error: Exception) -> None:
        text = " ".join(str(error).split())
        reason = text if str(task.source) in text or str(task.target) in text else f"{task.source}: {text}"
        with self._lock:
            self.outcome.failed.append((task, reason))
        if self.journal is not None:
            self.journal.record_failure(task, reason)
        self.on_progress(task, 1.0, 0.0)

    def _discard_unfinished(self) -> None:
        """Remove unfinished files when the job ends early."""
        for output in list(self._outputs.values()):
            output.discard()


class _Output:
    """The file of a restored recording.

    Its level is known at its end: until then its blocks wait in a file without a name, which vanishes with the process.
    """

    def __init__(self, task: Task, input_sha256: str, restorer: Restorer, writer_id: str | None) -> None:
        self.task, self.input_sha256 = task, input_sha256
        self._restorer, self._writer_id = restorer, writer_id
        self.executor: ThreadPoolExecutor | None = None
        self.has_failed = False
        self._spool: IO[bytes] | None = None
        self._lengths: list[int] = []
        self._meters: list[LevelMeter] = []

    def write(self, stream: RecordingStream, block: Block) -> None:
        if self._spool is None:
            self.task.target.parent.mkdir(parents=True, exist_ok=True)
            self._spool = tempfile.TemporaryFile(dir=self.task.target.parent)  # noqa: SIM115 - closed by `discard`
            self._meters = stream.meters()
        for meter, channel in zip(self._meters, block, strict=True):
            meter.add(channel)
        self._spool.write(np.ascontiguousarray(block).tobytes())
        self._lengths.append(block.shape[1])

    def finish(self, stream: RecordingStream) -> str:
        """Write the file and return its SHA-256."""
        channels = stream.source.channels
        keeps_level = self._restorer.options.level == "input" and self._spool is not None
        gains = stream.gains(self._meters) if keeps_level else np.ones((channels, 1), np.float32)
        with RecordingWriter(
            self.task.target, self._restorer.sample_rate_hz, channels, stream.samples, self._writer_id
        ) as writer:
            if self._spool is not None:
                self._spool.seek(0)
                for length in self._lengths:
                    block = np.frombuffer(self._spool.read(4 * channels * length), np.float32)
                    writer.write(gains * block.reshape(channels, length))
        self.discard()
        return writer.sha256

    def discard(self) -> None:
        """Drop what was written and not finished."""
        if self._spool is not None:
            self._spool.close()
