"""A batch is a function of (seed, step), whatever the workers, the first step, the rank and the process."""

import multiprocessing
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_configs import data_config, degradation_config

from miipher2.data.dataloader import make_dataloader
from miipher2.data.dataset import SpeechDataset
from miipher2.data.manifest import Manifest
from miipher2.data.pools import Pools

DEGRADATION = degradation_config(
    {"room": {"probability": 0.5}, "noise": {"probability": 0.9, "snr_db": [5, 30]}, "codec": {"probability": 0.5}}
)


def new_dataset(root: Path, crop_seconds: float = 0.5, segment_frames: int = 10) -> SpeechDataset:
    prepared = root / "data/prepared"
    pools = Pools(Manifest.read(prepared / "noise.parquet"), Manifest.read(prepared / "rooms.parquet"), root)
    manifest = Manifest.read(prepared / "manifest.parquet")
    data = data_config(crop_seconds, segment_frames=segment_frames)
    return SpeechDataset(manifest, pools, data, DEGRADATION, root=root, seed=5, batch_size=4, sample_rate_hz=24000)


@pytest.fixture
def dataset(root: Path) -> SpeechDataset:
    return new_dataset(root)


def batches(dataset: SpeechDataset, start: int = 0, stop: int = 6, workers: int = 0, **ranks: Any) -> list[dict]:
    loader = make_dataloader(dataset, start_step=start, stop_step=stop, num_workers=workers, **ranks)
    assert len(loader) == stop - start
    return list(loader)


def assert_same(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key]), key


def padded_frames(root: Path, segment_frames: int) -> list[int]:
    """Return how many frames the batches have when padded to the longest, after checking their content."""
    dataset = new_dataset(root, crop_seconds=4.0, segment_frames=segment_frames)
    frames = []
    cropped, longest = (
        list(make_dataloader(dataset, start_step=0, stop_step=6, pad_to=to)) for to in ("crop", "longest")
    )
    for whole, batch in zip(cropped, longest, strict=True):
        frames.append(batch["clean"].shape[1] // 320)
        for name, hop in (("clean", 320), ("degraded", 320), ("target", 480)):
            assert whole[name].shape == (4, 200 * hop)
            assert batch[name].is_contiguous()
            assert torch.equal(batch[name], whole[name][:, : frames[-1] * hop])
            assert name == "degraded" or not whole[name][:, frames[-1] * hop :].any()
        assert frames[-1] == max(segment_frames, int(whole["valid_frames"].max()))
        assert all(torch.equal(batch[name], whole[name]) for name in ("valid_frames", "segment_start", "utterance"))
    return frames


def test_batches_padded_to_the_longest_end_with_their_longest_utterance(root: Path) -> None:
    frames = padded_frames(root, segment_frames=10)
    assert len(set(frames)) > 1
    assert max(frames) < 200
    assert min(padded_frames(root, segment_frames=190)) >= 190


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(dataset: SpeechDataset, workers: int) -> None:
    assert_same(batches(dataset, workers=workers), batches(dataset))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_start_at_a_later_step_gives_the_same_batches(dataset: SpeechDataset, workers: int) -> None:
    assert_same(batches(dataset, start=4, workers=workers), batches(dataset)[4:])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_share_the_global_batch(dataset: SpeechDataset, world_size: int) -> None:
    whole = batches(dataset)
    parts = [batches(dataset, rank=rank, world_size=world_size) for rank in range(world_size)]
    joined = [{key: torch.cat([part[step][key] for part in parts]) for key in whole[0]} for step in range(len(whole))]
    assert_same(joined, whole)


def test_batches_do_not_depend_on_the_number_of_threads(dataset: SpeechDataset) -> None:
    threads = torch.get_num_threads()
    before = batches(dataset)
    dataset._reader._cache._values.clear()  # so that files are resampled again
    try:
        torch.set_num_threads(3)
        assert_same(batches(dataset), before)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_is_drawn_from_a_global_generator(dataset: SpeechDataset, workers: int) -> None:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    batches(dataset, workers=workers)
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    # In this process beartype itself, which checks the types in the tests, draws from Python's generator.
    assert before[0] == after[0] or workers == 0
    assert np.array_equal(before[1][1], after[1][1])
    assert before[1][2] == after[1][2]
    assert torch.equal(before[2], after[2])


def test_a_batch_has_the_documented_shapes(dataset: SpeechDataset) -> None:
    batch = batches(dataset, stop=1)[0]
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "clean": (4, 8000),
        "degraded": (4, 8000),
        "target": (4, 12000),
        "valid_frames": (4,),
        "segment_start": (4,),
        "utterance": (4,),
    }


def test_an_error_in_a_worker_names_the_file(dataset: SpeechDataset) -> None:
    dataset._reader._root = Path("/nowhere")
    with pytest.raises(ValueError, match=r"/nowhere/data/speech.*does not exist"):
        batches(dataset, workers=1)


def test_workers_survive_signals_to_the_group_and_stop_with_their_parent(dataset: SpeechDataset) -> None:
    loader = make_dataloader(dataset, start_step=0, stop_step=6, num_workers=1, prefetch=1)
    before = set(multiprocessing.active_children())
    batches_of_run = iter(loader)
    first = next(batches_of_run)
    (worker,) = set(multiprocessing.active_children()) - before
    for number in ("INT", "TERM"):
        subprocess.run(["bash", "-c", f"kill -{number} {worker.pid}"], check=True)
    assert_same([first, *batches_of_run], batches(dataset))
    assert worker.is_alive()
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0


def test_a_batch_that_does_not_divide_among_the_ranks_is_an_error(dataset: SpeechDataset) -> None:
    with pytest.raises(ValueError, match="batch_size=4: should be a multiple of the 3 ranks"):
        make_dataloader(dataset, start_step=0, stop_step=6, world_size=3)
    for steps, rank in (((7, 6), 0), ((0, 6), 1)):
        with pytest.raises(AssertionError):
            make_dataloader(dataset, start_step=steps[0], stop_step=steps[1], rank=rank)
