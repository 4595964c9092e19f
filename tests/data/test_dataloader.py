"""A batch is a function of (seed, step), whatever the workers, the start, the rank and the process."""

import multiprocessing
import random
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from miipher2.data.dataloader import make_dataloader
from miipher2.data.dataset import SpeechDataset
from miipher2.data.manifest import Manifest
from miipher2.data.pools import Pools

DEGRADATION = {
    "room": {"probability": 0.5},
    "noise": {"probability": 0.9, "snr_db": [5, 30]},
    "codec": {"probability": 0.5},
}


def new_examples(root: Path, crop_seconds: float = 0.5, segment_frames: int = 10) -> SpeechDataset:
    prepared = root / "data/prepared"
    pools = Pools(Manifest.read(prepared / "noise.parquet"), Manifest.read(prepared / "rooms.parquet"), root)
    manifest = Manifest.read(prepared / "manifest.parquet")
    settings: dict[str, Any] = {"sample_rate_hz": 24000, "level_db": (-30.0, -20.0), "segment_frames": segment_frames}
    settings["crop_seconds"] = crop_seconds
    return SpeechDataset(manifest, pools, DEGRADATION, root=root, seed=5, batch_size=4, **settings)


@pytest.fixture
def examples(root: Path) -> SpeechDataset:
    return new_examples(root)


def batches(examples: SpeechDataset, start: int = 0, stop: int = 6, workers: int = 0, **ranks: int) -> list[dict]:
    loader = make_dataloader(examples, start_step=start, stop_step=stop, batch_size=4, num_workers=workers, **ranks)
    assert len(loader) == stop - start
    return list(loader)


def assert_same(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert torch.equal(one[key], other[key]), key


def padded_frames(root: Path, segment_frames: int) -> list[int]:
    """Return how many frames the batches hold when padded to the longest, after a look at all that is in them."""
    examples = new_examples(root, crop_seconds=4.0, segment_frames=segment_frames)
    frames = []
    cropped, longest = (list(make_dataloader(examples, start_step=0, stop_step=6, batch_size=4, num_workers=0, pad_to=to))
                        for to in ("crop", "longest"))  # fmt: skip
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


def test_batches_end_with_their_longest_utterance_where_asked(root: Path) -> None:
    frames = padded_frames(root, segment_frames=10)
    assert len(set(frames)) > 1
    assert max(frames) < 200
    assert min(padded_frames(root, segment_frames=190)) >= 190


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_for_any_number_of_workers(examples: SpeechDataset, workers: int) -> None:
    assert_same(batches(examples, workers=workers), batches(examples))


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_at_a_step_gives_the_batches_from_there(examples: SpeechDataset, workers: int) -> None:
    assert_same(batches(examples, start=4, workers=workers), batches(examples)[4:])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_the_ranks_together_are_the_global_batch(examples: SpeechDataset, world_size: int) -> None:
    whole = batches(examples)
    parts = [batches(examples, rank=rank, world_size=world_size) for rank in range(world_size)]
    joined = [{key: torch.cat([part[step][key] for part in parts]) for key in whole[0]} for step in range(len(whole))]
    assert_same(joined, whole)


def test_batches_do_not_hang_on_the_number_of_threads(examples: SpeechDataset) -> None:
    threads = torch.get_num_threads()
    before = batches(examples)
    examples._decoder._whole._values.clear()  # so that files are resampled again
    try:
        torch.set_num_threads(3)
        assert_same(batches(examples), before)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("workers", [0, 1])
def test_no_global_generator_is_drawn_from(examples: SpeechDataset, workers: int) -> None:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    batches(examples, workers=workers)
    after = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    # In this process beartype itself, which checks the types in the tests, draws from Python's generator.
    assert before[0] == after[0] or workers == 0
    assert np.array_equal(before[1][1], after[1][1])
    assert before[1][2] == after[1][2]
    assert torch.equal(before[2], after[2])


def test_a_batch_has_the_shapes_promised(examples: SpeechDataset) -> None:
    batch = batches(examples, stop=1)[0]
    assert {key: tuple(value.shape) for key, value in batch.items()} == {
        "clean": (4, 8000),
        "degraded": (4, 8000),
        "target": (4, 12000),
        "valid_frames": (4,),
        "segment_start": (4,),
        "utterance": (4,),
    }


def test_a_file_that_fails_in_a_worker_is_named(examples: SpeechDataset) -> None:
    examples._decoder._root = Path("/nowhere")
    with pytest.raises(ValueError, match=r"/nowhere/data/speech.*does not exist"):
        batches(examples, workers=1)


def test_workers_outlive_signals_to_everyone_and_end_with_their_parent(examples: SpeechDataset) -> None:
    loader = make_dataloader(examples, start_step=0, stop_step=6, batch_size=4, num_workers=1, prefetch=1)
    before = set(multiprocessing.active_children())
    batches_of_run = iter(loader)
    first = next(batches_of_run)
    (worker,) = set(multiprocessing.active_children()) - before
    for number in ("INT", "TERM"):
        subprocess.run(["bash", "-c", f"kill -{number} {worker.pid}"], check=True)
    assert_same([first, *batches_of_run], batches(examples))
    assert worker.is_alive()
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"batch_size": 8}, "batch_size is 8"),
        ({"world_size": 3}, "divide among 3 ranks"),
        ({"rank": 1}, "rank 1"),
        ({"start_step": 7}, "steps 7 to 6"),
        ({"pad_to": "wave"}, "pad_to is 'wave'; it should be crop or longest"),
    ],
)
def test_wrong_arguments_are_named(examples: SpeechDataset, changes: dict, named: str) -> None:
    settings: dict[str, Any] = {"start_step": 0, "stop_step": 6, "batch_size": 4, "num_workers": 0, **changes}
    with pytest.raises(ValueError, match=named):
        make_dataloader(examples, **settings)
