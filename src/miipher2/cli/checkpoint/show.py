"""`miipher2 checkpoint show` and `command`: how a checkpoint or published weights were made, and how to resume."""

import argparse
import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from miipher2.atomic_io import sha256_of
from miipher2.cli.doctor_checks import commands_for
from miipher2.config.command import relative_to_root
from miipher2.training.summary import read_summary

# What people look for comes first.
FIRST = ("stage", "step", "run_id", "saved_at", "code", "data_sha256", "upstream_digests", "parents", "best")


def run(options: argparse.Namespace) -> int:
    """Show one checkpoint, or the one that led to published weights."""
    shown = provenance(options.file)
    if options.json:
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
        return 0
    sys.stdout.write(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120))
    return 0


def print_command(options: argparse.Namespace) -> int:
    """Print the command that resumes from a checkpoint with the settings of its run."""
    if not options.file.is_file():
        raise FileNotFoundError(f"{options.file}: no such file")
    summary = read_summary(options.file)
    if not summary:
        raise ValueError(f"{options.file.with_suffix('.json')}: missing or damaged; it records how the run was started")
    *copies, command = commands_for(relative_to_root(options.file), summary)
    if "command" not in summary:
        sys.stderr.write("this checkpoint's version recorded no overrides; the resume will list what differs\n")
    if copies:
        text = "DVC empties published/ before the stage runs; copy the file out first, as in the first line"
        sys.stderr.write(f"{options.file}: {text}\n")
    if options.json:
        sys.stdout.write(json.dumps(({"first": copies} if copies else {}) | {"command": shlex.split(command)}) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in (*copies, command)))
    return 0


def provenance(file: Path) -> dict[str, Any]:
    """Return the provenance of a checkpoint, of a folder's newest one, or of published weights.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no JSON describes it.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file or folder")
    checkpoint = file if file.suffix == ".pt" else file.with_suffix(".pt")
    if file.is_file() and file.suffix in (".pt", ".json") and checkpoint.is_file():
        return _in_order({"file": str(checkpoint)}, read_summary(checkpoint) or _from_tensors(checkpoint))
    folder = file if file.is_dir() else file.parent
    summaries = {path: read_summary(path) for path in folder.glob("checkpoint_*.pt")}
    whole = [path for path, summary in summaries.items() if "step" in summary]
    if not whole:
        raise ValueError(f"{folder}: holds no checkpoint with its JSON, which would describe {file.name}")
    newest = max(whole, key=lambda path: summaries[path]["step"])
    weights = [_describe_weights(path) for path in sorted(folder.glob("*.safetensors"))]
    begin: dict[str, Any] = {"file": str(newest)}
    if weights:
        begin = {"published": str(folder), "weights": weights, "checkpoint": newest.name}
    return _in_order(begin, summaries[newest])


def _from_tensors(path: Path) -> dict[str, Any]:
    """Return what the JSON would say, from a checkpoint that has none."""
    from miipher2.training.checkpoint import load

    checkpoint, sha256 = load(path)
    return {**checkpoint.summary(), "sha256": sha256, "bytes": path.stat().st_size}


def _describe_weights(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    about = {"file": path.name, "sha256": sha256_of(path)}
    try:
        with safe_open(path, framework="numpy") as opened:
            shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118 - not iterable
    except SafetensorError as error:
        restore = shlex.join(["uv", "run", "dvc", "checkout", "--force", relative_to_root(path.parent)])
        raise ValueError(f"{path}: damaged ({error}); restore it: {restore}") from None
    parameters = sum(math.prod(shape) for shape in shapes)
    return {**about, "bytes": path.stat().st_size, "tensors": len(shapes), "parameters": parameters}


def _in_order(begin: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """Return the entries with those that people look for first, and the long configuration last."""
    shown = begin | {key: summary[key] for key in FIRST if key in summary}
    shown |= {key: value for key, value in summary.items() if key not in shown and key != "config"}
    return shown | {"config": summary.get("config")}
