"""Examples made beforehand are those made on the fly, bit for bit, or are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from miipher2.data import stored
from miipher2.data.examples import Examples
from miipher2.data.loader import steps_loader
from miipher2.data.prepared import Prepared
from miipher2.data.stored import StoredExamples, store

SETTINGS: dict[str, Any] = {
    "seed": 5,
    "batch_size": 4,
    "crop_seconds": 0.5,
    "level_db": [-30, -20],
    "segment_frames": 10,
}


def make(root: Path) -> Examples:
    data = Prepared.read(root, "data/prepared")
    degradation = {"room": {"probability": 0.5}, "noise": {"probability": 1.0, "snr_db": [5, 20]}}
    settings = {**SETTINGS, "sample_rate_hz": 24000}
    return Examples(data.speech.select("train"), data.pools(root, "train"), degradation, root=root, **settings)


def batches(examples: Examples | StoredExamples, start: int, stop: int, **settings: Any) -> list[dict]:
    settings = {"num_workers": 0, **settings}
    return list(steps_loader(examples, start_step=start, stop_step=stop, batch_size=4, **settings))


def assert_same(first: list[dict], second: list[dict]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            assert one[key].dtype == other[key].dtype
            assert torch.equal(one[key], other[key]), key


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    store(make(root), folder, SETTINGS, steps=5, batches_per_shard=2)
    return folder


@pytest.mark.parametrize("settings", [{}, {"num_workers": 2, "pad_to": "longest"}, {"rank": 1, "world_size": 2}])
def test_batches_are_those_made_on_the_fly(root: Path, folder: Path, settings: dict[str, Any]) -> None:
    kept = StoredExamples(folder, SETTINGS, steps=5)
    assert_same(batches(kept, 0, 5, **settings), batches(make(root), 0, 5, **settings))
    assert_same(batches(kept, 3, 5, **settings), batches(make(root), 3, 5, **settings))


def test_what_a_batch_is_given_cannot_alter_the_shard(folder: Path) -> None:
    kept = StoredExamples(folder, SETTINGS, steps=5)
    first = kept[(0, 0)]["clean"].clone()
    kept[(0, 0)]["clean"].zero_()
    assert torch.equal(kept[(0, 0)]["clean"], first)


def test_a_killed_store_goes_on_and_a_longer_one_adds(
    root: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, made = stored._write, []

    def once(path: Path, *arguments: Any) -> None:
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(path.name)
        write(path, *arguments)

    monkeypatch.setattr(stored, "_write", once)
    with pytest.raises(KeyboardInterrupt):
        store(make(root), tmp_path, SETTINGS, steps=3, batches_per_shard=2)
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError, match="holds no stored examples"):
        StoredExamples(tmp_path, SETTINGS, steps=1)
    kept_at = (tmp_path / "examples-000000.npy").stat().st_mtime_ns
    for steps in (3, 5):
        store(make(root), tmp_path, SETTINGS, steps=steps, batches_per_shard=2)
    assert (tmp_path / "examples-000000.npy").stat().st_mtime_ns == kept_at
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert all((tmp_path / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_other_settings_too_few_batches_and_changed_shards_are_refused(
    root: Path, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"its examples are others; seed: 5 stored, 6 configured"):
        StoredExamples(folder, {**SETTINGS, "seed": 6}, steps=5)
    with pytest.raises(ValueError, match="holds 5 batches, and 6 are to be trained on"):
        StoredExamples(folder, SETTINGS, steps=6)
    with pytest.raises(ValueError, match="holds examples of other settings"):
        store(make(root), folder, {**SETTINGS, "seed": 6}, steps=5, batches_per_shard=2)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((tmp_path / "examples-000001.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "examples-000001.npy").write_bytes(content)
    kept = StoredExamples(tmp_path, SETTINGS, steps=5)
    assert kept[(1, 3)]["clean"].shape == (8000,)
    with pytest.raises(ValueError, match=r"examples-000001\.npy: is not the shard that was written"):
        kept[(2, 0)]
    with pytest.raises(IndexError):
        kept[(6, 0)]
