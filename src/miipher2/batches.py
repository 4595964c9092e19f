"""The batches of a training stage from its configuration: wires prepared data, examples and the loader."""

from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from miipher2.config import ROOT
from miipher2.data.examples import Examples
from miipher2.data.loader import steps_loader
from miipher2.data.prepared import Prepared
from miipher2.data.stored import StoredExamples
from miipher2.training import ranks
from miipher2.training.recipe import Batch

# Enough for feature statistics; fixed, so that a run's start does not depend on how long it will be.
INITIAL_BATCHES = 16


def make_batches(config: DictConfig, data: Prepared) -> tuple[Callable[..., Any], Callable[[], list[Batch]]]:
    """Return the training batches as a function of the steps [from, to), and the fixed validation batches.

    Of both, this rank's share: of each training batch its slots (unless asked for the whole), of validation batches.
    """
    stored = config.loader.stored
    training = (
        make_examples(config, data)
        if stored is None
        else StoredExamples(ROOT / stored, example_settings(config, data), steps=max(config.steps, INITIAL_BATCHES))
    )
    held = make_examples(config, data, split="valid", stream_name="valid")
    on_cuda = torch.cuda.is_initialized()
    validation: list[Batch] = []

    def batches(start_step: int, stop_step: int, whole: bool = False) -> Any:
        return steps_loader(
            training,
            start_step=start_step,
            stop_step=stop_step,
            batch_size=config.batch_size,
            rank=0 if whole else ranks.rank(),
            world_size=1 if whole else ranks.count(),
            num_workers=config.loader.num_workers,
            prefetch=config.loader.prefetch,
            pad_to=config.data.pad_to,
            pin_memory=on_cuda,
        )

    def validation_batches() -> list[Batch]:
        if not validation:
            own = ranks.share(config.validation_batches)
            validation.extend(
                steps_loader(
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


def shown_batch(config: DictConfig, data: Prepared) -> tuple[Batch, list[str]]:
    """Return the first held-out utterances of validation as `wandb.examples` asks for them, with their names."""
    held = data.speech.select("valid")
    count = min(config.wandb.examples.count, len(held))
    changed = {"crop_seconds": config.wandb.examples.seconds, "batch_size": count, "segment_frames": None}
    examples = make_examples(config, data, split="valid", stream_name="valid", **changed)
    (batch,) = steps_loader(examples, start_step=0, stop_step=1, batch_size=count, num_workers=0, prefetch=1)
    return batch, [held.row(int(number)).name for number in batch["utterance"]]


def make_examples(
    config: DictConfig, data: Prepared, split: str = "train", stream_name: str = "example", **changed: Any
) -> Examples:
    """Return the examples of one split; noises, rooms and voices are those of training.

    Args:
        changed: settings that are to be other than the configuration's.
    """
    settings = example_settings(config, data) | changed
    del settings["data_sha256"]
    return Examples(
        data.speech.select(split),
        data.pools(ROOT, "train"),
        settings.pop("degradation"),
        root=ROOT,
        stream_name=stream_name,
        weights=data.weights,
        cache_mb=config.loader.cache_mb,
        **settings,
    )


def example_settings(config: DictConfig, data: Prepared) -> dict[str, Any]:
    """Return everything that an example hangs on."""
    return {
        "data_sha256": data.digest,
        "degradation": OmegaConf.to_container(config.degradation),
        "seed": config.seed,
        "batch_size": config.batch_size,
        "crop_seconds": config.data.crop_seconds,
        "sample_rate_hz": OmegaConf.select(config, "model.sample_rate_hz") or 16_000,
        "level_db": list(config.data.level_db),
        "segment_frames": config.data.segment_frames,
        "on_bad_file": config.data.on_bad_file,
    }
