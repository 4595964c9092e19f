"""The loader: batches in the order of their steps, from any step on, for any rank and any number of workers."""

import os
import signal
import threading
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from miipher2.data.examples import Examples


class Steps(Sampler[list[tuple[int, int]]]):
    """For each step from `start_step` to before `stop_step`, the (step, slot) of one rank's share of the batch."""

    def __init__(self, start_step: int, stop_step: int, slots: range) -> None:
        self._steps = range(start_step, stop_step)
        self._slots = slots

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(step, slot) for slot in self._slots] for step in self._steps)

    def __len__(self) -> int:
        return len(self._steps)


def steps_loader(
    examples: Examples,
    *,
    start_step: int,
    stop_step: int,
    batch_size: int,
    num_workers: int,
    prefetch: int = 2,
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

    Raises:
        ValueError: the batch does not divide among the ranks or is not that of `examples`, or the steps run backwards.
    """
    if batch_size != examples.batch_size:
        raise ValueError(f"batch_size is {batch_size}; the examples were made for {examples.batch_size}")
    if batch_size % world_size or not 0 <= rank < world_size:
        raise ValueError(f"batch_size is {batch_size}, rank {rank}; it should divide among {world_size} ranks")
    if not 0 <= start_step <= stop_step:
        raise ValueError(f"steps {start_step} to {stop_step}; they should not be negative nor run backwards")
    share = batch_size // world_size
    return DataLoader(
        examples,
        batch_sampler=Steps(start_step, stop_step, range(rank * share, (rank + 1) * share)),
        num_workers=num_workers,
        prefetch_factor=max(1, prefetch) if num_workers else None,
        persistent_workers=num_workers > 0,
        worker_init_fn=_start_worker,
        pin_memory=pin_memory,
        # Its own: an iterator draws a seed from the generator, the global one if it has none.
        generator=torch.Generator().manual_seed(0),
    )


def _start_worker(_worker: int) -> None:
    """Let the parent alone decide when to stop, and leave the other cores to the other workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux; elsewhere a SIGTERM to all processes stops the worker as usual
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        # A library's thread that is older than the mask may get the signal, and torch's handler would end the worker.
        signal.signal(signal.SIGTERM, lambda *_: None)
        threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)


def _obey_parent(parent: int) -> None:
    """End this process on a SIGTERM of its parent, and on nobody else's.

    A scheduler ends a run with a SIGTERM to all its processes, and the parent still wants batches up to its next
    checkpoint. The parent itself ends workers so where torch's quiet way fails: after an error in one of them.
    """
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
