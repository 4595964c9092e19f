"""The record of a folder of restored recordings: finished files, and the weights and options behind them.

Each process writes a journal of its own, so that any number of processes and machines may share one folder. A record is
one line; a line that a kill cut off is no record. A record counts only where the digests of today's files agree with
it.
"""

import fcntl
import hashlib
import json
import os
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from miipher2.atomic_io import replace_durably, sha256_of, temporary_name
from miipher2.inference.files import Task
from miipher2.inference.restorer import Restorer

FORMAT = 1  # of the results; raise it when the same weights and options come to give other results
FOLDER, LINEAGE = ".restoring", "lineage.json"


class Journal:
    """The journals of one folder, for reading, and this process's own, for writing.

    Args:
        folder: where restored recordings go; created where needed.
        recipe: all that decides a result besides the recording, as `recipe_of` returns it.
    """

    def __init__(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.folder = folder
        self.key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
        self.writer_id = uuid.uuid4().hex
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        self.reload()
        self._file = (folder / FOLDER / f"{self.writer_id}.jsonl").open("ab", buffering=0)
        _try_lock(self._file.fileno())

    def reload(self) -> None:
        """Read all journals again: other processes, or an earlier life of this one, may have finished more."""
        self._done: dict[str, list[dict[str, str]]] = {}
        for path in sorted((self.folder / FOLDER).glob("*.jsonl")):
            self._read(path)

    def is_done(self, task: Task, input_sha256: str) -> bool:
        """Return whether the target is whole, and made from this input with the same weights and options."""
        digests = {
            record["output"]
            for record in self._done.get(task.name, ())
            if (record["input"], record["key"]) == (input_sha256, self.key)
        }
        return bool(digests) and task.target.is_file() and sha256_of(task.target) in digests

    def record_start(self, task: Task) -> None:
        """Record that a temporary file is about to be written."""
        self._write({"begun": task.name})

    def record_done(self, task: Task, input_sha256: str, output_sha256: str) -> None:
        """Record that the target is on the disk."""
        self._write({"done": task.name, "input": input_sha256, "key": self.key, "output": output_sha256})

    def record_failure(self, task: Task, reason: str) -> None:
        """Record a failure, for people; the next run tries again."""
        self._write({"failed": task.name, "reason": reason})

    def close(self) -> None:
        """Close the journal, and remove it where it is empty."""
        if os.fstat(self._file.fileno()).st_size == 0:
            Path(self._file.name).unlink(missing_ok=True)
        self._file.close()

    def _write(self, record: dict[str, str]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")
        os.fsync(self._file.fileno())

    def _read(self, path: Path) -> None:
        """Read a journal; where its process is gone, remove the temporary files that it left."""
        unfinished: set[str] = set()
        with path.open("rb") as file:
            is_orphan = _try_lock(file.fileno())
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # cut off by a kill
                if "done" in record:
                    self._done.setdefault(record["done"], []).append(record)
                    unfinished.discard(record["done"])
                elif "begun" in record:
                    unfinished.add(record["begun"])
            if is_orphan:
                for name in unfinished:
                    target = self.folder / name
                    target.with_name(temporary_name(target.name, path.stem)).unlink(missing_ok=True)


def recipe_of(restorer: Restorer) -> dict[str, Any]:
    """Return what decides a result besides the recording; device and versions only round differently."""
    return {"format": FORMAT, "weights": restorer.weights.digest(), "options": restorer.options.result_options()}


def open_journal(restorer: Restorer, folder: Path) -> Journal:
    """Return a folder's journal, and write `lineage.json` there: weights, training, options and versions."""
    recipe = recipe_of(restorer)
    journal = Journal(folder, recipe)
    lineage = {
        **recipe,
        "sample_rate_hz": restorer.sample_rate_hz,
        "settings": restorer.weights.settings,
        "lineage": restorer.weights.lineage,
        "device": str(restorer.device),
        "versions": {"torch": torch.__version__, "transformers": version("transformers")},
    }
    temporary = folder / temporary_name(LINEAGE, journal.writer_id)
    temporary.write_text(json.dumps(lineage, indent=2, ensure_ascii=False) + "\n")
    replace_durably(temporary, folder / LINEAGE)
    return journal


def _try_lock(descriptor: int) -> bool:
    """Return whether no other process holds the file; on a file system without locks, False."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
