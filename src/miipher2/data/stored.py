"""Examples made beforehand: the very values of `Examples`, in shards, for sites short of processors."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from miipher2.data.examples import Examples
from miipher2.data.recent import Recent
from miipher2.data.survey import file_digest

ABOUT = "about.json"


class StoredExamples(Dataset[dict[str, Tensor]]):
    """Examples by (step, slot), read from a folder that `store` filled; slot runs over the global batch."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, steps: int) -> None:
        """Check that the folder holds what would be made now.

        Args:
            settings: what determines an example, as given to `store`.
            steps: how many batches will be asked for.

        Raises:
            FileNotFoundError: the folder holds no stored examples.
            ValueError: they were made with other settings or from other data, or there are too few of them.
        """
        if not (folder / ABOUT).is_file():
            raise FileNotFoundError(f"{folder}: holds no stored examples; make them: uv run miipher2 store --help")
        about = json.loads((folder / ABOUT).read_text())
        wanted = json.loads(json.dumps(settings))
        if other := [key for key in sorted(wanted) if about["settings"].get(key) != wanted[key]]:
            lines = [f"{key}: {about['settings'].get(key)} stored, {wanted[key]} configured" for key in other]
            raise ValueError(f"{folder}: its examples are others; " + "; ".join(lines))
        self.batch_size: int = wanted["batch_size"]
        self.segment_frames: int | None = wanted["segment_frames"]
        if steps > about["steps"]:
            raise ValueError(f"{folder}: holds {about['steps']} batches, and {steps} are to be trained on; store more")
        self._folder, self._shards, self._per_shard = folder, about["shards"], about["batches_per_shard"]
        self._open: Recent[int, np.ndarray] = Recent(0.0, lambda shard: shard.nbytes)

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Tensor]:
        """Return example `(step, slot)` as `Examples` does, bit for bit.

        Raises:
            ValueError: its shard is not the one that was written.
        """
        step, slot = index
        number, batch = divmod(step, self._per_shard)
        if step < 0 or number >= len(self._shards) or not 0 <= slot < self.batch_size:
            raise IndexError(f"example (step {step}, slot {slot}) of {self._folder}")
        record = self._open.get(number, lambda: self._checked(number))[batch * self.batch_size + slot]
        return {name: torch.from_numpy(np.array(record[name])) for name in record.dtype.names or ()}

    def _checked(self, number: int) -> np.ndarray:
        """Return a shard, mapped and not loaded; its digest is compared whenever it is opened."""
        path = self._folder / _name(number)
        if not path.is_file() or file_digest(path) != self._shards[number]:
            what = "is not the shard that was written" if path.is_file() else "is missing"
            raise ValueError(f"{path}: {what}; store the examples again")
        return np.load(path, mmap_mode="r")


def store(
    examples: Examples, folder: Path, settings: Mapping[str, Any], *, steps: int, batches_per_shard: int = 64
) -> int:
    """Write the examples of the batches 0 to `steps - 1`, and return their bytes; a killed run goes on where it was.

    Args:
        settings: what determines an example; `StoredExamples` compares it.

    Raises:
        ValueError: the folder holds examples of other settings.
        AudioError: an utterance cannot be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    begun = folder / f".{ABOUT}"
    plain = json.dumps({"settings": settings, "batches_per_shard": batches_per_shard}, indent=2, sort_keys=True)
    for path in (begun, folder / ABOUT):
        if path.is_file() and not _same(json.loads(path.read_text()), json.loads(plain)):
            raise ValueError(f"{folder}: holds examples of other settings; name another folder, or remove it")
    begun.write_text(plain)
    digests, written = [], 0
    for number in range(-(-steps // batches_per_shard)):
        path = folder / _name(number)
        wanted = min(steps - number * batches_per_shard, batches_per_shard) * examples.batch_size
        if not path.is_file() or len(np.load(path, mmap_mode="r")) != wanted:
            _write(path, examples, number * batches_per_shard * examples.batch_size, wanted)
        digests.append(file_digest(path))
        written += path.stat().st_size
    about = {**json.loads(plain), "steps": steps, "shards": digests}
    temporary = folder / f".{ABOUT}.tmp"
    temporary.write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")
    temporary.replace(folder / ABOUT)
    begun.unlink()
    return written


def _write(path: Path, examples: Examples, first: int, count: int) -> None:
    """Write one shard whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    shard: np.ndarray | None = None
    for index in range(count):
        example = {name: value.numpy() for name, value in examples[divmod(first + index, examples.batch_size)].items()}
        if shard is None:
            record = np.dtype([(name, value.dtype, value.shape) for name, value in example.items()])
            free = shutil.disk_usage(path.parent).free
            if record.itemsize * count > free:
                raise OSError(f"{path}: needs {record.itemsize * count / 1e9:.2f} GB, {free / 1e9:.2f} are free")
            shard = np.lib.format.open_memmap(temporary, mode="w+", dtype=record, shape=(count,))
        for name, value in example.items():
            shard[name][index] = value
    assert shard is not None
    shard.flush()  # type: ignore[attr-defined]
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _same(about: dict[str, Any], wanted: dict[str, Any]) -> bool:
    return all(about.get(key) == value for key, value in wanted.items())


def _name(number: int) -> str:
    return f"examples-{number:06d}.npy"
