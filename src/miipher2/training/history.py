"""A run's past: history.csv, a row for each step that was logged, and chain.jsonl, a link for each checkpoint."""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from miipher2.atomic_io import fsync, write_atomically
from miipher2.training.summary import read_summary

CHAIN = "chain.jsonl"
LINK_KEYS = ("step", "sha256", "parent_sha256", "since_parent", "chain_sha256")


class History:
    """The metrics of a run so far.

    Args:
        columns: all metrics, in the order of the file.
        path: the file, written anew now and appended to; None keeps the text in memory alone.
        text: the file up to the step resumed from; "" on a fresh start.
    """

    def __init__(self, columns: Sequence[str], *, path: Path | None, text: str = "") -> None:
        self.columns, self.path = tuple(columns), path
        self.text = text or ",".join(("step", *columns)) + "\n"
        if path is not None:
            write_atomically(path, self.text.encode())

    def append(self, step: int, metrics: dict[str, float]) -> None:
        """Add one step's metrics; without any, do nothing."""
        if not metrics:
            return
        unknown = sorted(set(metrics) - set(self.columns))
        assert not unknown, f"metrics {unknown} are not among the recipe's metric_names"
        row = io.StringIO()
        cells = [f"{metrics[name]:.9g}" if name in metrics else "" for name in self.columns]
        csv.writer(row, lineterminator="\n").writerow([step, *cells])
        self.text += row.getvalue()
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(row.getvalue())


class Chain:
    """The checkpoints that led to a run's newest one, from the first on, also those that rotation has removed.

    A link holds a checkpoint's step and sha256, its parent's, and digests of what led from one to the other. Its
    `chain_sha256` is made from all that and the parent's, so that the last link vouches for all before it.

    Args:
        links: oldest first.
        sha256, step: of the newest checkpoint; where it has no link, the chain is not known further back.
    """

    def __init__(self, links: Iterable[dict[str, Any]] = (), sha256: str | None = None, step: int = 0) -> None:
        self.links, self.sha256, self.step = list(links), sha256, step
        self._written: Path | None = None

    @classmethod
    def of(cls, path: Path, sha256: str, step: int) -> "Chain":
        """Return the chain of a checkpoint, from its JSON and the chain.jsonl beside it."""
        known = read_links(path.parent)
        own = link_of(read_summary(path))
        if own is not None:
            known[sha256] = own
        links, parent = [], sha256
        while parent in known:
            links.append(known.pop(parent))
            parent = links[-1]["parent_sha256"]
        return cls(reversed(links), sha256, step)

    def next(self, step: int, **digests: str | None) -> dict[str, Any]:
        """Return what the JSON of the checkpoint of a later step says about this chain."""
        since = {"step": self.step, **digests}
        before = self.links[-1]["chain_sha256"] if self.links else None
        return {
            "parent_sha256": self.sha256,
            "since_parent": since,
            "chain_sha256": chain_digest(before, step, self.sha256, since),
        }

    def append(self, path: Path) -> None:
        """Add a saved checkpoint, and write chain.jsonl beside it."""
        link = link_of(read_summary(path))
        assert link is not None
        self.links.append(link)
        self.sha256, self.step = link["sha256"], link["step"]
        file = path.with_name(CHAIN)
        if self._written != file:  # the file may hold later steps than this process started from
            write_atomically(file, self.text().encode())
            self._written = file
            return
        with file.open("a") as opened:
            opened.write(json.dumps(link) + "\n")
        fsync(file)

    def text(self, weights: Mapping[str, str] | None = None) -> str:
        """Return chain.jsonl; for `published/` with a last line on the weights, sha256 by file name."""
        last = [] if weights is None else [{"weights": weights, "parent_sha256": self.sha256}]
        return "".join(json.dumps(line) + "\n" for line in [*self.links, *last])


def link_of(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a checkpoint's link, from its JSON; None if an earlier version wrote it."""
    is_link = isinstance(summary.get("since_parent"), dict) and all(key in summary for key in LINK_KEYS)
    return {key: summary[key] for key in LINK_KEYS} if is_link else None


def chain_digest(before: str | None, step: int, parent_sha256: str | None, since: Mapping[str, Any]) -> str:
    """Return a link's `chain_sha256`; `before` is the parent's."""
    return hashlib.sha256(json.dumps([before, step, parent_sha256, since], sort_keys=True).encode()).hexdigest()


def read_links(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the links in a folder's chain.jsonl by sha256; a line that a kill cut off is skipped."""
    return {line["sha256"]: line for line in _read_lines(folder) if link_of(line) is not None}


def read_weights(folder: Path) -> dict[str, Any]:
    """Return the line on the weights in a folder's chain.jsonl: `weights` and `parent_sha256`; {} without one."""
    return next((line for line in _read_lines(folder) if "weights" in line), {})


def _read_lines(folder: Path) -> list[dict[str, Any]]:
    try:
        lines = (folder / CHAIN).read_text().splitlines()
    except (OSError, ValueError):
        return []
    read = []
    for line in lines:
        try:
            read.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [line for line in read if isinstance(line, dict)]
