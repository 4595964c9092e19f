"""The JSON beside a checkpoint, and the names of both files. Imports no torch, so that listing starts quickly."""

import json
import re
from pathlib import Path
from typing import Any

# Entries and configuration keys that format 1 had under another name (None: no longer there).
RENAMED_ENTRIES = {"sources": "upstream_digests"}
RENAMED_KEYS = {
    "config.hears": "config.encoder_input",
    "config.loader.stored": None,
    "environment.ranks": "environment.world_size",
}


def file_name(step: int) -> str:
    """Return `checkpoint_10k.pt` for step 10,000 and `checkpoint_1500.pt` for step 1,500."""
    return f"checkpoint_{step // 1000}k.pt" if step and step % 1000 == 0 else f"checkpoint_{step}.pt"


def step_of(path: Path) -> int | None:
    """Return the step in a checkpoint's file name, or None for any other name."""
    match = re.fullmatch(r"checkpoint_(\d+)(k?)\.pt", path.name)
    return None if match is None else int(match[1]) * (1000 if match[2] else 1)


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Return the checkpoints in a folder by ascending step."""
    found = [(step_of(path), path) for path in folder.glob("checkpoint_*.pt")]
    return sorted((step, path) for step, path in found if step is not None)


def json_path(path: Path) -> Path:
    """Return the JSON beside a checkpoint."""
    return path.with_suffix(".json")


def read_summary(path: Path) -> dict[str, Any]:
    """Return the JSON beside a checkpoint under today's names; {} where it is missing or unreadable."""
    try:
        summary = json.loads(json_path(path).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return upgrade(summary) if isinstance(summary, dict) and "step" in summary else {}


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of a format 1 checkpoint, or of its JSON, under today's names."""
    content = {RENAMED_ENTRIES.get(name, name): value for name, value in content.items()}
    for old, new in RENAMED_KEYS.items():
        *path, key = old.split(".")
        section: Any = content
        for part in path:
            section = section.get(part) if isinstance(section, dict) else None
        if isinstance(section, dict) and key in section:
            value = section.pop(key)
            if new is not None:
                section[new.rpartition(".")[2]] = value
    return content
