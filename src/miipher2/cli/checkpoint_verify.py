"""`miipher2 checkpoint verify`: reads every file as a resume would, and lists failures."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from miipher2.training.checkpoint import load
from miipher2.training.summary import read_summary, step_of

GENERATORS = ("python", "numpy", "torch", "cuda")


def run(options: argparse.Namespace) -> int:
    """Verify one file or all below a folder."""
    if not options.path.exists():
        raise FileNotFoundError(f"{options.path}: no such file or folder")
    files = sorted(find_files(options.path)) if options.path.is_dir() else [options.path]
    if not files:
        raise ValueError(f"{options.path}: holds no checkpoint_*.pt and no *.safetensors")
    results = []
    for file in files:
        problem = find_problem(file)
        results.append({"path": str(file), "ok": problem is None, "problem": problem, "note": _note(file)})
        if not options.json:
            note = f" ({results[-1]['note']})" if results[-1]["note"] else ""
            sys.stdout.write(f"ok      {file}{note}\n" if problem is None else f"FAILED  {problem}\n")
    failed = [result for result in results if not result["ok"]]
    if options.json:
        sys.stdout.write(json.dumps(results, indent=2) + "\n")
    else:
        sys.stdout.write(f"{len(results)} checked, {len(failed)} failed\n")
    return int(bool(failed))


def find_files(folder: Path) -> list[Path]:
    """Return all checkpoints and weights below a folder."""
    return [path for pattern in ("checkpoint_*.pt", "*.safetensors") for path in folder.rglob(pattern)]


def find_problem(file: Path) -> str | None:
    """Return what is wrong with a checkpoint or a file of weights, starting with its name; None if it is intact."""
    try:
        return _weights_problem(file) if file.suffix == ".safetensors" else _checkpoint_problem(file)
    except (ValueError, OSError) as error:
        text = " ".join(str(error).split())
        return text if text.startswith(str(file)) else f"{file}: {text}"


def _checkpoint_problem(file: Path) -> str | None:
    checkpoint, _ = load(file)
    for rank, states in checkpoint.rng.items():
        if missing := [name for name in GENERATORS if name not in states]:
            return f"{file}: rng of rank {rank} has no {', '.join(missing)}; a run cannot be resumed exactly without it"
    if step_of(file) not in (None, checkpoint.step):
        return f"{file}: holds step {checkpoint.step}, its name says {step_of(file)}"
    described = read_summary(file)
    for key in ("stage", "step", "run_id", "parents", "config", "data_sha256"):
        if key in described and described[key] != getattr(checkpoint, key):
            return f"{file}: {key} differs between the checkpoint and its JSON"
    return _first_not_finite(file, checkpoint.model)


def _weights_problem(file: Path) -> str | None:
    try:
        return _first_not_finite(file, load_file(file))
    except SafetensorError as error:
        return f"{file}: damaged ({error})"


def _first_not_finite(file: Path, tensors: dict[str, Any]) -> str | None:
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    return f"{file}: '{broken[0]}' holds values that are not finite" if broken else None


def _note(file: Path) -> str | None:
    if file.suffix == ".pt" and not file.with_suffix(".json").is_file():
        return "without JSON: checked by the archive's own checksums"
    return None
