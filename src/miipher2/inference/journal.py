"""What is finished in a folder of restored recordings: one journal for each process that writes there.

No file has two writers, so that any number of processes and machines may work on one folder. A record is a line; a line
that a kill cut off is no record. What a record says is believed only where the digests of today's files agree.
"""

import fcntl
import hashlib
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miipher2.atomic_io import sha256_of
from miipher2.audio.stream import temporary_name

FOLDER = ".restoring"


@dataclass(frozen=True)
class Task:
    """A recording and where its restoration goes; `name` is the target's, below the folder."""

    source: Path
    target: Path
    name: str


class Journal:
    """The journals of one folder, read; and this process's own, written.

    Args:
        folder: where restored recordings go; made where needed.
        made_with: whatever decides the result beside the recording (digest of weights, options), as plain values.
    """

    def __init__(self, folder: Path, made_with: dict[str, Any]) -> None:
        self.folder = folder
        self.key = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()
        self.writer_id = uuid.uuid4().hex
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        self.reread()
        self._file = (folder / FOLDER / f"{self.writer_id}.jsonl").open("ab", buffering=0)
        _try_lock(self._file.fileno())

    def reread(self) -> None:
        """Take what other processes, or an earlier life of this one, have finished since."""
        self._done: dict[str, list[dict[str, str]]] = {}
        for path in sorted((self.folder / FOLDER).glob("*.jsonl")):
            self._read(path)

    def is_done(self, task: Task, input_sha256: str) -> bool:
        """Say whether the target is whole, and was made of this input with the same weights and options."""
        fitting = {
            record["output"]
            for record in self._done.get(task.name, ())
            if (record["input"], record["key"]) == (input_sha256, self.key)
        }
        return bool(fitting) and task.target.is_file() and sha256_of(task.target) in fitting

    def begin(self, task: Task) -> None:
        """Record that a temporary file is about to be written."""
        self._write({"begun": task.name})

    def finish(self, task: Task, input_sha256: str, output_sha256: str) -> None:
        """Record that the target is on the disk."""
        self._write({"done": task.name, "input": input_sha256, "key": self.key, "output": output_sha256})

    def fail(self, task: Task, reason: str) -> None:
        """Record a failure, for people; the next run tries again."""
        self._write({"failed": task.name, "reason": reason})

    def close(self) -> None:
        """End the journal; an empty one is removed."""
        path = Path(self._file.name)
        is_empty = os.fstat(self._file.fileno()).st_size == 0
        if is_empty:
            path.unlink(missing_ok=True)
        self._file.close()

    def _write(self, record: dict[str, str]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")
        os.fsync(self._file.fileno())

    def _read(self, path: Path) -> None:
        """Take the records of a journal; what a process that is gone was writing is removed."""
        begun: set[str] = set()
        with path.open("rb") as file:
            is_orphan = _try_lock(file.fileno())
            for line in file:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # cut off by a kill
                if "done" in record:
                    self._done.setdefault(record["done"], []).append(record)
                    begun.discard(record["done"])
                elif "begun" in record:
                    begun.add(record["begun"])
            if is_orphan:
                for name in begun:
                    target = self.folder / name
                    target.with_name(temporary_name(target.name, path.stem)).unlink(missing_ok=True)


def _try_lock(descriptor: int) -> bool:
    """Say whether the file is held by nobody; a file system without locks says no."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
