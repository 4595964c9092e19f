"""`miipher2 checkpoint ls`: what the JSON files and history.csv of a run say about its checkpoints."""

import argparse
import csv
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from miipher2.config.paths import runs_below
from miipher2.training.summary import read_summary


def run(options: argparse.Namespace) -> int:
    """List the checkpoints below a folder; an empty folder is not an error."""
    if not options.folder.is_dir():
        raise ValueError(f"{options.folder}: not a folder; runs are in exp/<config name>/")
    folders = [options.folder]
    if not any(options.folder.glob("checkpoint_*.pt")):
        named = {path.parent for path in options.folder.glob("*/checkpoint_*.pt")}
        folders = sorted(named | set(runs_below(options.folder)))
    rows = [row for folder in folders for row in list_checkpoints(folder)]
    if options.json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    elif rows:
        sys.stdout.write(_table(rows))
    else:
        sys.stderr.write(f"no checkpoints in {options.folder}\n")
    return 0


def list_checkpoints(folder: Path) -> list[dict[str, Any]]:
    """Return what the JSON files and history.csv in a folder say about its checkpoints, by ascending step."""
    summaries = {path: read_summary(path) for path in folder.glob("checkpoint_*.pt")}
    newest = max((summary["saved_at"] for summary in summaries.values() if "saved_at" in summary), default=None)
    # history.csv belongs to the newest run; other runs' checkpoints in the folder have only their JSON.
    current = {
        summary["run_id"] for summary in summaries.values() if summary.get("saved_at") == newest and "run_id" in summary
    }
    history = _history(folder / "history.csv")
    rows = []
    for path, summary in summaries.items():
        best = summary.get("best") or {}
        metric = best.get("metric") or _first_metric(history)
        loss = _last(history, metric, summary.get("step")) if summary.get("run_id") in current else None
        row = {"path": str(path), "bytes": path.stat().st_size, "metric": metric, "loss": loss}
        row |= {"best": best.get("value"), "best_step": best.get("step")}
        rows.append(
            row | {key: summary.get(key) for key in ("step", "stage", "run_id", "saved_at", "parents", "sha256")}
        )
    return sorted(rows, key=lambda row: (row["step"] is None, row["step"], row["path"]))


def _history(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _first_metric(history: list[dict[str, str]]) -> str | None:
    names = history[0] if history else {}
    return next((name for name in names if name and name.startswith("valid/")), None)


def _last(history: list[dict[str, str]], metric: str | None, step: int | None) -> float | None:
    """Return the last value of a metric at or before a step."""
    if metric is None or step is None:
        return None
    values = [row[metric] for row in history if row["step"].isdigit() and int(row["step"]) <= step and row.get(metric)]
    return float(values[-1]) if values else None


def _table(rows: list[dict[str, Any]]) -> str:
    metrics = {row["metric"] for row in rows if row["metric"]}
    loss = metrics.pop() if len(metrics) == 1 else "loss"
    lines = [["step", "size", loss, "best", "age", "run", "lineage", "file"]]
    for row in rows:
        best = "-" if row["best"] is None else f"{row['best']:.4g}@{row['best_step']}"
        steps = [str(parent["step"]) for parent in row["parents"] or []]
        lineage = "-" if row["parents"] is None else f"resumed at {', '.join(steps)}" if steps else "fresh"
        plain = [row["step"], None if row["loss"] is None else f"{row['loss']:.4g}", row["run_id"]]
        step, value, run = ("-" if cell is None else str(cell) for cell in plain)
        lines.append([step, _size(row["bytes"]), value, best, _age(row["saved_at"]), run, lineage, row["path"]])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n" for line in lines
    )


def _size(count: int | float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def _age(saved_at: str | None) -> str:
    if saved_at is None:
        return "-"
    seconds = (datetime.now(UTC) - datetime.fromisoformat(saved_at)).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
