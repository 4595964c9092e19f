"""The batches of a training stage: in the order of steps, from any step on, for any rank and number of workers."""

import multiprocessing
import multiprocessing.context
import multiprocessing.process
import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from multiprocessing import popen_fork

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from miipher2.config.paths import ROOT
from miipher2.config.schema import TrainingConfig
from miipher2.data.dataset import SpeechDataset, collate_to_longest
from miipher2.data.prepared import PreparedData
from miipher2.data.sampler import StepSampler

# Enough for feature statistics, and independent of how long a run will be.
INITIAL_BATCHES = 16

Batch = dict[str, Tensor]


def make_batches(
    config: TrainingConfig, data: PreparedData, *, rank: int = 0, world_size: int = 1
) -> tuple[Callable[..., Iterable[Batch]], Callable[[], list[Batch]]]:
    """Return the training batches as a function of the steps [start, stop), and the fixed validation batches.

    Both are this rank's share: its slots of each training batch (unless called with `whole`), its validation batches.
    """
    training, validation = make_dataset(config, data, "train"), make_dataset(config, data, "valid")
    pin_memory = torch.cuda.is_initialized()
    cached: list[Batch] = []

    def training_batches(start_step: int, stop_step: int, whole: bool = False) -> Iterable[Batch]:
        return make_dataloader(
            training,
            start_step=start_step,
            stop_step=stop_step,
            rank=0 if whole else rank,
            world_size=1 if whole else world_size,
            num_workers=config.loader.num_workers,
            prefetch=config.loader.prefetch,
            pad_to=config.data.pad_to,
            pin_memory=pin_memory,
        )

    def validation_batches() -> list[Batch]:
        if not cached:
            start, stop = (config.validation_batches * share // world_size for share in (rank, rank + 1))
            cached.extend(make_dataloader(validation, start_step=start, stop_step=stop, pad_to=config.data.pad_to))
        return cached

    return training_batches, validation_batches


def sample_batch(config: TrainingConfig, data: PreparedData) -> tuple[Batch, list[str]]:
    """Return the first validation utterances as `wandb.examples` asks for them, with their names."""
    manifest = data.speech.select("valid")
    count = min(config.wandb.examples.count, len(manifest))
    config = replace(
        config,
        batch_size=count,
        data=replace(config.data, crop_seconds=config.wandb.examples.seconds, segment_frames=None),
    )
    (batch,) = make_dataloader(make_dataset(config, data, "valid"), start_step=0, stop_step=1)
    return batch, [manifest.row(int(utterance)).name for utterance in batch["utterance"]]


def make_dataset(config: TrainingConfig, data: PreparedData, split: str) -> SpeechDataset:
    """Return the dataset of one split; noises, rooms and babble voices are those of training."""
    return SpeechDataset(
        data.speech.select(split),
        data.pools(ROOT, "train"),
        config.data,
        config.degradation if config.uses_degraded else None,
        root=ROOT,
        seed=config.seed,
        batch_size=config.batch_size,
        sample_rate_hz=config.target_rate_hz,
        stream_name="example" if split == "train" else split,
        weights=data.weights,
        cache_mb=config.loader.cache_mb,
    )


def make_dataloader(
    dataset: SpeechDataset,
    *,
    start_step: int,
    stop_step: int,
    num_workers: int = 0,
    prefetch: int = 2,
    pad_to: str = "crop",
    pin_memory: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> DataLoader[Batch]:
    """Return a dataloader of the batches `start_step` to `stop_step - 1`.

    A batch depends on the dataset, the step and the rank's slots only, and nothing is drawn from a global generator.

    Args:
        num_workers: processes that make batches; 0 makes them in this one.
        prefetch: batches that each worker prepares ahead.
        pad_to: pads the waves of a batch to the `crop` or to its `longest` example (and at least a segment).

    Raises:
        ValueError: the batch does not divide among the ranks.
    """
    if dataset.batch_size % world_size:
        raise ValueError(f"batch_size={dataset.batch_size}: should be a multiple of the {world_size} ranks")
    assert 0 <= rank < world_size
    assert 0 <= start_step <= stop_step
    share = dataset.batch_size // world_size
    return DataLoader(
        dataset,
        batch_sampler=StepSampler(start_step, stop_step, range(rank * share, (rank + 1) * share)),
        num_workers=num_workers,
        prefetch_factor=max(1, prefetch) if num_workers else None,
        persistent_workers=num_workers > 0,
        multiprocessing_context=_WorkerContext() if num_workers else None,
        worker_init_fn=_init_worker,
        collate_fn=default_collate if pad_to == "crop" else partial(collate_to_longest, dataset.segment_frames or 1),
        pin_memory=pin_memory,
        # An iterator draws a seed from its generator, which would otherwise be the global one.
        generator=torch.Generator().manual_seed(0),
    )


class _Popen(popen_fork.Popen):
    """Stops a worker by a signal that only its parent sends: torch does so after an error, and Python at exit."""

    def terminate(self) -> None:
        """Ask the worker to stop."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGUSR1)


class _Worker(multiprocessing.context.ForkProcess):
    """A process that ignores SIGTERM and still stops with its parent."""

    @staticmethod
    def _Popen(process: multiprocessing.process.BaseProcess) -> _Popen:
        return _Popen(process)


class _WorkerContext(multiprocessing.context.ForkContext):
    """Starts such processes."""

    Process = _Worker


def _init_worker(_worker: int) -> None:
    """Let only the parent stop the worker, and give it one core.

    A scheduler sends SIGTERM to all processes of a run, but the parent needs batches until its checkpoint.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Exit code 0: torch takes any other for a failure and raises in the parent.
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(0))
    torch.set_num_threads(1)
