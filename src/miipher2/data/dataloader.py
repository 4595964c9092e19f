"""The loader: batches in the order of their steps, from any step on, for any rank and any number of workers."""

import multiprocessing
import multiprocessing.context
import multiprocessing.process
import os
import signal
from collections.abc import Iterator
from functools import partial
from multiprocessing import popen_fork

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from miipher2.data.crop_reader import CLEAN_RATE_HZ, FRAMES_PER_SECOND
from miipher2.data.dataset import SpeechDataset


class StepSampler(Sampler[list[tuple[int, int]]]):
    """For each step from `start_step` to before `stop_step`, the (step, slot) of one rank's share of the batch."""

    def __init__(self, start_step: int, stop_step: int, slots: range) -> None:
        self._steps = range(start_step, stop_step)
        self._slots = slots

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(step, slot) for slot in self._slots] for step in self._steps)

    def __len__(self) -> int:
        return len(self._steps)


def make_dataloader(
    dataset: SpeechDataset,
    *,
    start_step: int,
    stop_step: int,
    batch_size: int,
    num_workers: int,
    prefetch: int = 2,
    pad_to: str = "crop",
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[dict[str, Tensor]]:
    """Return a loader of the batches `start_step` to `stop_step - 1`, collated along a first axis batch.

    Nothing but `examples`, the step and the rank's slots enters a batch, and no global generator is drawn from.

    Args:
        batch_size: examples in the global batch; rank r of w has slots r * batch_size / w and following.
        num_workers: processes that make batches; 0 makes them in this one.
        prefetch: batches that each worker makes ahead.
        pad_to: how long the waves of a batch are: as the `crop`, or as the `longest` of this rank's examples is without
            the zeros at its end (a segment to be cut from it at least).

    Raises:
        ValueError: `pad_to` is neither, the batch does not divide among the ranks or is not that of `examples`, or the
            steps run backwards.
    """
    if batch_size != dataset.batch_size:
        raise ValueError(f"batch_size is {batch_size}; the examples were made for {dataset.batch_size}")
    if batch_size % world_size or not 0 <= rank < world_size:
        raise ValueError(f"batch_size is {batch_size}, rank {rank}; it should divide among {world_size} ranks")
    if not 0 <= start_step <= stop_step:
        raise ValueError(f"steps {start_step} to {stop_step}; they should not be negative nor run backwards")
    if pad_to not in ("crop", "longest"):
        raise ValueError(f"pad_to is {pad_to!r}; it should be crop or longest")
    share = batch_size // world_size
    return DataLoader(
        dataset,
        batch_sampler=StepSampler(start_step, stop_step, range(rank * share, (rank + 1) * share)),
        num_workers=num_workers,
        prefetch_factor=max(1, prefetch) if num_workers else None,
        persistent_workers=num_workers > 0,
        multiprocessing_context=_Workers() if num_workers else None,
        worker_init_fn=_start_worker,
        collate_fn=default_collate if pad_to == "crop" else partial(collate_to_longest, dataset.segment_frames or 1),
        pin_memory=pin_memory,
        # Its own: an iterator draws a seed from the generator, the global one if it has none.
        generator=torch.Generator().manual_seed(0),
    )


def collate_to_longest(least_frames: int, examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return a batch whose waves end with its longest example, or after `least_frames`."""
    crop_frames = len(examples[0]["clean"]) * FRAMES_PER_SECOND // CLEAN_RATE_HZ
    frames = max(least_frames, *(int(example["valid_frames"]) for example in examples))
    return default_collate(
        [
            {name: value[: len(value) // crop_frames * frames] if value.ndim else value for name, value in each.items()}
            for each in examples
        ]
    )


class _Popen(popen_fork.Popen):
    """Ends a worker by a signal that only its parent sends: torch does so after an error, and Python when it exits."""

    def terminate(self) -> None:
        """Ask the worker to end."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGUSR1)


class _Worker(multiprocessing.context.ForkProcess):
    """A process that ignores SIGTERM and still ends with its parent."""

    @staticmethod
    def _Popen(process: multiprocessing.process.BaseProcess) -> _Popen:
        return _Popen(process)


class _Workers(multiprocessing.context.ForkContext):
    """Makes such processes."""

    Process = _Worker


def _start_worker(_worker: int) -> None:
    """Let the parent alone decide when to stop, and leave the other cores to the other workers.

    A scheduler ends a run with a SIGTERM to all its processes, and the parent still wants batches up to its checkpoint.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # With the exit code of a quiet end: torch takes any other for a failure and raises in the parent.
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
    torch.set_num_threads(1)
