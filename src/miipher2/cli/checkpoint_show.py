"""`miipher2 checkpoint show`: from a checkpoint or published weights to code, data, parameters and parents."""

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import yaml

from miipher2.training.checkpoint import load, read_summary

# What people look for; the rest follows.
FIRST = ("stage", "step", "run_id", "saved_at", "code", "data_sha256", "upstream_digests", "parents", "best")


def run(options: argparse.Namespace) -> int:
    """Show one checkpoint, or what led to published weights."""
    shown = provenance(options.file)
    if options.json:
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
        return 0
    sys.stdout.write(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120))
    return 0


def provenance(file: Path) -> dict[str, Any]:
    """Return what is known of a checkpoint, of a folder's newest one, or of published weights and what led to them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is nothing that says where it comes from.
    """
    if not file.exists():
        raise FileNotFoundError(f"{file}: no such file or folder")
    checkpoint = file if file.suffix == ".pt" else file.with_suffix(".pt")
    if file.is_file() and file.suffix in (".pt", ".json") and checkpoint.is_file():
        return _in_order({"file": str(checkpoint)}, read_summary(checkpoint) or _from_tensors(checkpoint))
    folder = file if file.is_dir() else file.parent
    known = {path: read_summary(path) for path in folder.glob("checkpoint_*.pt")}
    whole = [path for path, summary in known.items() if "step" in summary]
    if not whole:
        raise ValueError(f"{folder}: holds no checkpoint with its JSON, which would say where {file.name} comes from")
    newest = max(whole, key=lambda path: known[path]["step"])
    weights = [_describe_weights(path) for path in sorted(folder.glob("*.safetensors"))]
    begin: dict[str, Any] = {"file": str(newest)}
    if weights:
        begin = {"published": str(folder), "weights": weights, "checkpoint": newest.name}
    return _in_order(begin, known[newest])


def _from_tensors(path: Path) -> dict[str, Any]:
    """Return what the JSON would say, from a checkpoint that has none."""
    checkpoint, sha256 = load(path)
    return {**checkpoint.summary(), "sha256": sha256, "bytes": path.stat().st_size}


def _describe_weights(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        about = {"file": path.name, "sha256": hashlib.sha256_of(file, "sha256").hexdigest()}
    try:
        with safe_open(path, framework="numpy") as opened:
            shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118 - it has no iterator
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error}); restore it: uv run dvc checkout") from None
    parameters = sum(math.prod(shape) for shape in shapes)
    return {**about, "bytes": path.stat().st_size, "tensors": len(shapes), "parameters": parameters}


def _in_order(begin: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """Put what people look for first, and the long configuration last."""
    shown = begin | {key: known[key] for key in FIRST if key in known}
    shown |= {key: value for key, value in known.items() if key not in shown and key != "config"}
    return shown | {"config": known.get("config")}
