"""`miipher2 checkpoint verify`: reads every file as a resume would, and lists failures; or walks a run's chain."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from miipher2.atomic_io import sha256_of
from miipher2.config.paths import ROOT
from miipher2.training.checkpoint import load
from miipher2.training.history import chain_digest, link_of, read_links, read_weights
from miipher2.training.run_dir import PUBLISHED
from miipher2.training.summary import file_name, list_checkpoints, read_summary, step_of

GENERATORS = ("python", "numpy", "torch", "cuda")


def run(options: argparse.Namespace) -> int:
    """Verify one file or all below a folder."""
    if not options.path.exists():
        raise FileNotFoundError(f"{options.path}: no such file or folder")
    if options.chain:
        return _run_chain(options.path, options.json)
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


def _run_chain(file: Path, as_json: bool) -> int:
    if file.suffix not in (".pt", ".safetensors"):
        raise ValueError(f"{file}: --chain starts from one file; should be a checkpoint or published weights")
    entries: list[dict[str, Any]] = []
    problem = None
    try:
        for entry in walk_chain(file):
            entries.append(entry)
            if not as_json:
                where = entry["path"] or f"removed or moved since; sha256 {entry['sha256']}"
                sys.stdout.write(f"{'ok' if entry['path'] else 'gone':<7} step {entry['step']}: {where}\n")
    except (ValueError, OSError) as error:
        problem = " ".join(str(error).split())
    gone = sum(entry["path"] is None for entry in entries)
    if as_json:
        found = {"ok": problem is None, "problem": problem, "gone": gone, "chain": entries}
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        whole = f"whole   {len(entries)} checkpoints back to the first step, {gone} of them gone"
        sys.stdout.write(f"{whole if problem is None else f'FAILED  {problem}'}\n")
    return int(problem is not None)


def walk_chain(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the checkpoints that led to a file, newest first: step, sha256, path (None: gone) and since_parent.

    They are looked for beside it, in the run's folder and its published/, and where the run was resumed from.

    Raises:
        ValueError: a file or a link is not what the chain says, or the chain ends before the first step; names which.
    """
    if (problem := find_problem(file)) is not None:
        raise ValueError(problem)
    links, present = read_links(file.parent), _checkpoints_near(file)
    sha256: str | None = sha256_of(file)
    if file.suffix == ".safetensors":
        recorded = read_weights(file.parent)
        if (expected := recorded.get("weights", {}).get(file.name)) != sha256:
            raise ValueError(f"{file}: sha256 is {sha256}, chain.jsonl beside it says {expected or 'nothing about it'}")
        sha256 = recorded["parent_sha256"]
    elif sha256 is not None:
        present[sha256] = file
    newer: dict[str, Any] | None = None
    run_id = None
    while sha256 is not None:
        path = present.get(sha256)
        summary = {} if path is None else read_summary(path)
        own, run_id = link_of(summary), summary.get("run_id", run_id)
        link = links.get(sha256) or own
        if path is not None and (found := sha256_of(path)) != sha256:
            raise ValueError(f"{path}: sha256 is {found}, the chain says {sha256}")
        if own is not None and own != link:
            raise ValueError(f"{path}: its JSON and chain.jsonl differ about its parent")
        if newer is not None and not _goes_on(newer, link):
            problem = "its parent's link is missing" if link is None else "it or its parent's was changed"
            raise ValueError(f"the chain breaks at the link of step {newer['step']}: {problem} (parent {sha256})")
        if link is None:
            reason = f"{path or sha256} was saved by a version that recorded no parent"
            raise ValueError(f"the chain ends before the first step: {reason}")
        beside = file.parent / file_name(link["step"])
        there = read_summary(beside)
        if run_id is not None and there.get("run_id") == run_id and there.get("sha256") != sha256:
            raise ValueError(f"{beside}: sha256 is {there.get('sha256')}, the chain says {sha256}")
        yield {key: link[key] for key in ("step", "sha256", "since_parent")} | {"path": path and str(path)}
        newer, sha256 = link, link["parent_sha256"]
    if newer is None:
        raise ValueError(f"{file}: chain.jsonl beside it names no checkpoint that it comes from")
    if not _goes_on(newer, None):
        raise ValueError(f"the chain breaks at the link of step {newer['step']}: it was changed")


def _goes_on(newer: dict[str, Any], link: dict[str, Any] | None) -> bool:
    """Return whether a link goes on from its parent's; None: it has no parent, or the parent has no link."""
    step, parent, since = newer["step"], newer["parent_sha256"], newer["since_parent"]
    begin = since.get("step") if link is None else link["step"]
    digest = chain_digest(None if link is None else link["chain_sha256"], step, parent, since)
    return since.get("step") == begin and bool(begin) == (parent is not None) and digest == newer["chain_sha256"]


def _checkpoints_near(file: Path) -> dict[str, Path]:
    """Return the checkpoints that may be ancestors of a file, by the sha256 that their JSON says."""
    folder = file.parent
    newest = [read_summary(path) for _, path in list_checkpoints(folder)[-1:]]
    resumed = [ROOT / parent["path"] for summary in newest for parent in summary.get("parents", [])]
    folders = [*(path.parent for path in resumed), folder / PUBLISHED]
    folders += [folder.parent] if folder.name == PUBLISHED else []
    near = [path for each in [*folders, folder] for _, path in list_checkpoints(each)]
    return {summary["sha256"]: path for path in near if "sha256" in (summary := read_summary(path))}


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
