"""`miipher2 checkpoint diff`: two checkpoints compared by name and bit by bit; `replay` uses the same comparison."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from miipher2.training.checkpoint import DESCRIPTION, IDENTITY, Checkpoint, load
from miipher2.training.config_diff import diff_configs, flatten

NOT_STATE = (*Checkpoint.entries(IDENTITY), *Checkpoint.entries(DESCRIPTION))
COMPARED = ("upstream_digests", "data_sha256", "environment")  # beside the configuration
CLOSE_RATIO = 1e-5
SHOWN = 20


@dataclass(frozen=True)
class Difference:
    """How one named value differs: `close`, `different`, `missing in A` or `missing in B`."""

    name: str
    kind: str
    largest: float | None = None
    detail: str = ""

    def __str__(self) -> str:
        size = "" if self.largest is None else f", largest difference {self.largest:.3g}"
        return f"{self.name}: {self.kind}{size}{self.detail}"


def run(options: argparse.Namespace) -> int:
    """Compare two files."""
    a, b = _content(options.a), _content(options.b)
    about = [{**side.get("config", {}), **{key: side.get(key, {}) for key in COMPARED}} for side in (a, b)]
    changed = diff_configs(*about)
    before, after = flatten(about[0]), flatten(about[1])
    keys = [key for key in sorted(before | after) if before.get(key) != after.get(key) and key not in changed]
    harmless = {key: (before.get(key), after.get(key)) for key in keys}
    if a.get("stage") != b.get("stage"):
        changed = {"stage": (a.get("stage"), b.get("stage")), **changed}
    differences, counts = compare(a, b)
    equal = not changed and not differences
    identity = {key: [a.get(key), b.get(key)] for key in Checkpoint.entries(IDENTITY) if a.get(key) != b.get(key)}
    if options.json:
        found = {"equal": equal, "changed": changed, "harmless": harmless, "identity": identity, "equal_values": counts}
        sys.stdout.write(json.dumps({**found, "differences": [asdict(one) for one in differences]}, indent=2) + "\n")
    else:
        lines = [*_configuration(changed, harmless), *_state(differences, counts)]
        lines += [f"{key}: {_short(one)} and {_short(other)} (not counted)" for key, (one, other) in identity.items()]
        sys.stdout.write("\n".join([*lines, "equal" if equal else "different"]) + "\n")
    return int(not equal)


def compare(a: dict[str, Any], b: dict[str, Any]) -> tuple[list[Difference], dict[str, int]]:
    """Return the differences between two states, in the order of their entries, and counts of equal values."""
    differences: list[Difference] = []
    equal: Counter[str] = Counter()
    for entry in [*a, *(key for key in b if key not in a)]:
        if entry in NOT_STATE:
            continue
        before, after = (dict(_leaves(side[entry], entry)) if entry in side else {} for side in (a, b))
        for name in [*before, *(key for key in after if key not in before)]:
            if name not in before or name not in after:
                differences.append(Difference(name, f"missing in {'A' if name not in before else 'B'}"))
            elif (difference := _differ(name, before[name], after[name])) is not None:
                differences.append(difference)
            else:
                equal[entry] += 1
    return differences, dict(equal)


def _content(path: Path) -> dict[str, Any]:
    if path.suffix != ".safetensors":
        return load(path)[0].as_dict()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return {"weights": load_file(path)}
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged ({error})") from None


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the named values of nested mappings, and of lists that hold tensors; an empty mapping is a value."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}")
    elif isinstance(value, list | tuple) and any(isinstance(inner, torch.Tensor) for inner in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{name}.{index}")
    else:
        yield name, value


def _differ(name: str, a: Any, b: Any) -> Difference | None:
    if name == "history":
        return None if a == b else Difference(name, "different", detail=f" from row {_first_row(a, b)} on")
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        same = type(a) is type(b) and a == b
        return None if same else Difference(name, "different", detail=f": {_short(a)} and {_short(b)}")
    if a.dtype != b.dtype or a.shape != b.shape:
        kinds = [f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}" for tensor in (a, b)]
        return Difference(name, "different", detail=f": {kinds[0]} and {kinds[1]}")
    bits = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b)]
    if torch.equal(*bits):  # not by value: NaN would differ from itself, and 0 equal -0
        return None
    largest = float((a.double() - b.double()).abs().max())
    scale = max(float(a.double().abs().max()), float(b.double().abs().max()))
    is_close = a.is_floating_point() and largest <= CLOSE_RATIO * scale
    return Difference(name, "close" if is_close else "different", largest)


def _first_row(a: str, b: str) -> int:
    rows = zip([*a.splitlines(), ""], [*b.splitlines(), ""], strict=False)
    return next((number for number, (one, other) in enumerate(rows, 1) if one != other), len(a.splitlines()))


def _configuration(changed: dict[str, Any], harmless: dict[str, Any]) -> Iterator[str]:
    yield f"configuration, data, environment: {f'{len(changed)} differ' if changed else 'equal'}"
    for key, (old, new) in changed.items():
        yield f"  - {key}: {old} -> {new}"
    for key, (old, new) in harmless.items():
        yield f"  - {key}: {old} -> {new} (cannot alter a result, not counted)"


def _state(differences: list[Difference], counts: dict[str, int]) -> Iterator[str]:
    entries = dict.fromkeys([*counts, *(one.name.partition(".")[0] for one in differences)])
    for entry in entries:
        mine = [one for one in differences if one.name.partition(".")[0] == entry]
        kinds = Counter({"equal": counts[entry]} if entry in counts else {}) + Counter(one.kind for one in mine)
        yield f"{entry}: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"
        yield from (f"  - {one}" for one in mine[:SHOWN])
        if len(mine) > SHOWN:
            yield f"  - and {len(mine) - SHOWN} more (--json lists all)"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
