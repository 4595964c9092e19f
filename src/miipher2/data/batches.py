"""The batches of a training stage from its configuration: prepared data, dataset and dataloader wired together."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace

import torch
from torch import Tensor

from miipher2.config.paths import ROOT
from miipher2.config.schema import TrainingConfig
from miipher2.data.dataloader import make_dataloader
from miipher2.data.dataset import SpeechDataset
from miipher2.data.prepared import Prepared

# Enough for feature statistics; fixed, so that a run's start does not depend on how long it will be.
INITIAL_BATCHES = 16

Batch = dict[str, Tensor]


def make_batches(
    config: TrainingConfig, data: Prepared, *, rank: int = 0, world_size: int = 1
) -> tuple[Callable[..., Iterable[Batch]], Callable[[], list[Batch]]]:
    """Return the training batches as a function of the steps [start, stop), and the fixed validation batches.

    Both are this rank's share: its slots of each training batch (unless the whole is asked for), its validation batches.
    """
    training, held = make_dataset(config, data), make_dataset(config, data, split="valid")
    pin_memory = torch.cuda.is_initialized()
    validation: list[Batch] = []

    def batches(start_step: int, stop_step: int, whole: bool = False) -> Iterable[Batch]:
        return make_dataloader(
            training,
            start_step=start_step,
            stop_step=stop_step,
            batch_size=config.batch_size,
            rank=0 if whole else rank,
            world_size=1 if whole else world_size,
            num_workers=config.loader.num_workers,
            prefetch=config.loader.prefetch,
            pad_to=config.data.pad_to,
            pin_memory=pin_memory,
        )

    def validation_batches() -> list[Batch]:
        if not validation:
            count = config.validation_batches
            own = range(count * rank // world_size, count * (rank + 1) // world_size)
            validation.extend(
                make_dataloader(
                    held,
                    start_step=own.start,
                    stop_step=own.stop,
                    batch_size=config.batch_size,
                    num_workers=0,
                    pad_to=config.data.pad_to,
                )
            )
        return validation

    return batches, validation_batches


def sample_batch(config: TrainingConfig, data: Prepared) -> tuple[Batch, list[str]]:
    """Return the first validation utterances as `wandb.examples` asks for them, with their names."""
    held = data.speech.select("valid")
    count = min(config.wandb.examples.count, len(held))
    changed = replace(
        config,
        batch_size=count,
        data=replace(config.data, crop_seconds=config.wandb.examples.seconds, segment_frames=None),
    )
    dataset = make_dataset(changed, data, split="valid")
    (batch,) = make_dataloader(dataset, start_step=0, stop_step=1, batch_size=count, num_workers=0, prefetch=1)
    return batch, [held.row(int(number)).name for number in batch["utterance"]]


def make_dataset(config: TrainingConfig, data: Prepared, split: str = "train") -> SpeechDataset:
    """Return the dataset of one split; noises, rooms and babble voices are those of training."""
    return SpeechDataset(
        data.speech.select(split),
        data.pools(ROOT, "train"),
        asdict(config.degradation),
        root=ROOT,
        seed=config.seed,
        batch_size=config.batch_size,
        crop_seconds=config.data.crop_seconds,
        sample_rate_hz=config.target_rate_hz,
        level_db=config.data.level_db,
        segment_frames=config.data.segment_frames,
        on_bad_file=config.data.on_bad_file,
        stream_name="example" if split == "train" else split,
        weights=data.weights,
        cache_mb=config.loader.cache_mb,
    )
