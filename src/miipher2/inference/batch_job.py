"""Many recordings: reading, the networks and writing at the same time; failures collected, finished ones skipped."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field

from miipher2.atomic_io import sha256_of
from miipher2.audio.stream import Recording, RecordingWriter
from miipher2.inference.hearing import Block
from miipher2.inference.journal import Journal, Task
from miipher2.inference.restorer import Restorer
from miipher2.inference.streaming import Passage
from miipher2.inference.threads import in_order

BLOCKS_AHEAD = 16  # restored blocks that may wait for being written


@dataclass
class Outcome:
    """What a job did."""

    restored: list[Task] = field(default_factory=list)
    skipped: list[Task] = field(default_factory=list)
    failed: list[tuple[Task, str]] = field(default_factory=list)
    seconds: float = 0.0  # of audio

    def add(self, other: "Outcome") -> None:
        """Take in what another job did."""
        self.restored += other.restored
        self.skipped += other.skipped
        self.failed += other.failed
        self.seconds += other.seconds


@dataclass
class _Opened:
    """A recording that was read once; without a passage where its restoration is there already."""

    input_sha256: str
    passage: Passage | None


class Job:
    """Restores recordings to files.

    Args:
        journal: None does every task, and keeps no record.
        workers: threads that read, and as many that write.
        on_progress: called with a task, the share of it that was done since the last call, and the seconds of audio
            that were restored; with a share of 1 for a task that is skipped or fails, whatever was done of it.
    """

    def __init__(
        self,
        restorer: Restorer,
        journal: Journal | None,
        *,
        workers: int = 2,
        on_progress: Callable[[Task, float, float], None] = lambda task, share, seconds: None,
    ) -> None:
        self.restorer, self.journal, self.workers, self.on_progress = restorer, journal, workers, on_progress
        self.outcome = Outcome()
        self._lock = threading.Lock()
        self._outputs: dict[Passage, _Output] = {}

    def run(self, tasks: Sequence[Task]) -> Outcome:
        """Do all tasks and return what became of them; only what is wrong with all of them is raised."""
        room = threading.BoundedSemaphore(BLOCKS_AHEAD + self.workers)
        with ExitStack() as stack:
            stack.callback(self._abandon)  # last, when no thread writes any more
            readers = stack.enter_context(ThreadPoolExecutor(self.workers, "read"))
            # Each recording has its blocks written in order, by one of these.
            lanes = [stack.enter_context(ThreadPoolExecutor(1, "write")) for _ in range(self.workers)]
            written: list[Future[None]] = []
            for number, (passage, block) in enumerate(self.restorer.restore_all(self._opened(readers, tasks))):
                output = self._outputs[passage]
                if output.lane is None:
                    output.lane = lanes[number % len(lanes)]
                room.acquire()
                future = output.lane.submit(self._write, output, passage, block)
                future.add_done_callback(lambda _: room.release())
                written = [*(one for one in written if not one.done() or one.exception()), future]
            for future in written:
                future.result()  # raises what is no fault of a file
        return self.outcome

    def _opened(self, readers: ThreadPoolExecutor, tasks: Sequence[Task]) -> Iterator[Passage]:
        """Yield the recordings that are to be restored, read once, some of them beforehand."""
        depth = max(self.workers, 2 * self.restorer.batch_size)
        for task, future in in_order(readers, self._open, tasks, depth):
            opened = self._result(task, future)
            if opened is None:
                continue
            if opened.passage is None:
                self.outcome.skipped.append(task)
                self.on_progress(task, 1.0, 0.0)
                continue
            self._outputs[opened.passage] = _Output(task, opened.input_sha256, self.restorer.sample_rate_hz)
            yield opened.passage

    def _open(self, task: Task) -> _Opened:
        recording = Recording(task.source)
        input_sha256 = sha256_of(task.source) if self.journal is not None else ""
        if self.journal is not None and self.journal.is_done(task, input_sha256):
            return _Opened(input_sha256, None)
        return _Opened(input_sha256, self.restorer.open(recording))

    def _result(self, task: Task, future: "Future[_Opened]") -> _Opened | None:
        try:
            return future.result()
        except (ValueError, OSError) as error:
            self._fail(task, error)
            return None

    def _write(self, output: "_Output", passage: Passage, block: Block | None) -> None:
        """Write a block, or end the file; runs in the recording's lane."""
        task = output.task
        if output.has_failed:
            if block is None:
                self._outputs.pop(passage, None)
            return
        try:
            if block is not None:
                if output.writer is None and self.journal is not None:
                    self.journal.begin(task)
                output.write(block, passage, self.journal.writer_id if self.journal is not None else None)
                self.on_progress(task, block.shape[1] / passage.samples, block.shape[1] / self.restorer.sample_rate_hz)
                return
            if passage.failure is not None:
                raise passage.failure
            output_sha256 = output.finish(passage, self.journal.writer_id if self.journal is not None else None)
            if self.journal is not None:
                self.journal.finish(task, output.input_sha256, output_sha256)
            with self._lock:
                self.outcome.restored.append(task)
                self.outcome.seconds += passage.source.samples / passage.source.sample_rate_hz
                del self._outputs[passage]
        except (ValueError, OSError) as error:
            output.abandon()
            passage.failure = passage.failure or ValueError(str(error))
            self._fail(task, error)
            if block is None:
                self._outputs.pop(passage, None)

    def _fail(self, task: Task, error: Exception) -> None:
        text = " ".join(str(error).split())
        reason = text if str(task.source) in text or str(task.target) in text else f"{task.source}: {text}"
        with self._lock:
            self.outcome.failed.append((task, reason))
        if self.journal is not None:
            self.journal.fail(task, reason)
        self.on_progress(task, 1.0, 0.0)

    def _abandon(self) -> None:
        """Remove what is unfinished when the job ends early."""
        for output in list(self._outputs.values()):
            output.abandon()


class _Output:
    """The file that a recording becomes."""

    def __init__(self, task: Task, input_sha256: str, sample_rate_hz: int) -> None:
        self.task, self.input_sha256 = task, input_sha256
        self._sample_rate_hz = sample_rate_hz
        self.lane: ThreadPoolExecutor | None = None
        self.writer: RecordingWriter | None = None
        self.has_failed = False

    def write(self, block: Block, passage: Passage, writer_id: str | None) -> None:
        self._opened(passage, writer_id).write(block)

    def finish(self, passage: Passage, writer_id: str | None) -> str:
        writer, self.writer = self._opened(passage, writer_id), None
        return writer.finish()

    def abandon(self) -> None:
        self.has_failed = True
        writer, self.writer = self.writer, None
        if writer is not None:
            writer.abandon()

    def _opened(self, passage: Passage, writer_id: str | None) -> RecordingWriter:
        if self.writer is None:
            self.writer = RecordingWriter(
                self.task.target, self._sample_rate_hz, passage.source.channels, passage.samples, writer_id
            )
        return self.writer
