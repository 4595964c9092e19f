"""`miipher2 checkpoint show`: from a checkpoint or published weights to code, data, parameters and parents."""

import argparse
import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any

import yaml

from miipher2.commands.listing import summary_of

# What people look for; the rest follows.
FIRST = ("stage", "step", "run_id", "saved_at", "code", "data_sha256", "sources", "parents", "best")


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
        return _in_order({"file": str(checkpoint)}, summary_of(checkpoint) or _from_tensors(checkpoint))
    folder = file if file.is_dir() else file.parent
    known = {path: summary_of(path) for path in folder.glob("checkpoint_*.pt")}
    whole = [path for path, summary in known.items() if "step" in summary]
    if not whole:
        raise ValueError(f"{folder}: holds no checkpoint with its JSON, which would say where {file.name} comes from")
    newest = max(whole, key=lambda path: known[path]["step"])
    weights = [_describe_weights(path) for path in sorted(folder.glob("*.safetensors"))]
    begin: dict[str, Any] = {"file": str(newest)}
    if weights:
        begin = {"published": str(folder), "weights": weights, "checkpoint": newest.name}
    return _in_order(begin, known[newest])


def _from_tensors(checkpoint: Path) -> dict[str, Any]:
    """Return what a JSON would say, from a checkpoint that has none."""
    from miipher2.training.checkpoint import load
    from miipher2.training.run import digest_of

    content, sha256 = load(checkpoint)
    tensors = ("model", "optimizers", "ema", "rng", "history")
    plain = {entry: value for entry, value in content.items() if entry not in tensors}
    chance = {
        rank: {name: digest_of(value) for name, value in states.items()} for rank, states in content["rng"].items()
    }
    count = sum(tensor.numel() for tensor in content["model"].values())
    size = checkpoint.stat().st_size
    return {**plain, "rng_sha256": chance, "trained_parameters": count, "sha256": sha256, "bytes": size}


def _describe_weights(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        about = {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
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
