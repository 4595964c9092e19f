"""A source file: its tensors, each to be used or named, and the record of what was imported."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from miipher2.importing.torch_file import SourceError, StoredTensor
from miipher2.importing.unpickle import Inert

MAX_NUMBERS = 16  # in a list of sizes


@dataclass
class Record:
    """What `imported.json` says of one file.

    Args:
        kind: what the file is.
        licence: as far as it is known; `is_non_commercial` where a part of the file has such a licence.
        left_out: entries of the file that are not used, by reason.
        not_exact: where the result differs from what the source's own code makes of the file.
        checked: the largest difference to the source's own program, relative to its largest value, where it was run.
    """

    kind: str
    file: str
    sha256: str
    step: int | None = None
    licence: str = ""
    is_non_commercial: bool = False
    left_out: dict[str, list[str]] = field(default_factory=dict)
    not_exact: list[str] = field(default_factory=list)
    checked: float | None = None

    def add_checkpoint(self, content: Mapping[Any, Any], step_key: str, used: Iterable[str]) -> None:
        """Add a checkpoint's step, and name its entries that are not used."""
        step = content.get(step_key)
        self.step = step if type(step) is int and 0 <= step < 2**63 else None
        others = sorted(str(key)[:80] for key in content if key not in (step_key, *used))
        self.left_out["entries of the checkpoint beside the model"] = others

    def as_dict(self) -> dict[str, Any]:
        """Return the entries by name."""
        return asdict(self)


class SourceTensors:
    """The tensors of a file by name, of which each has to be used or left out for a reason.

    Args:
        content: names and tensors, as the file has them.
        what: how messages call this part of the file.
    """

    def __init__(self, path: Path, content: Any, what: str) -> None:
        self.path, self.what = path, what
        if not isinstance(content, Mapping) or not content:
            raise SourceError(f"{path}: {what} is {describe(content)}; should be tensors by name")
        for name, tensor in content.items():
            if not isinstance(name, str) or not isinstance(tensor, StoredTensor):
                raise SourceError(f"{path}: {what}: {str(name)[:80]} is {describe(tensor)}; should be a tensor")
        self._tensors: dict[str, StoredTensor] = dict(content)
        self._unused = set(content)
        self.left_out: dict[str, list[str]] = {}

    @property
    def names(self) -> Iterable[str]:
        """Return all names."""
        return self._tensors.keys()

    def has(self, *names: str) -> bool:
        """Return whether there are tensors of all these names."""
        return all(name in self._tensors for name in names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            SourceError: there is none of that name.
        """
        if name not in self._tensors:
            raise SourceError(f"{self.path}: {self.what} has no {name}")
        return self._tensors[name].shape

    def sizes(self, name: str, dimensions: int) -> tuple[int, ...]:
        """Return the sizes of a tensor that has so many dimensions.

        Raises:
            SourceError: it has not, or is missing.
        """
        if len(found := self.shape(name)) != dimensions:
            raise SourceError(f"{self.path}: {name} is {found}; should have {dimensions} dimensions")
        return found

    def take(self, name: str, shape: Sequence[int] | None = None) -> Tensor:
        """Return a tensor in float32.

        Raises:
            SourceError: it is missing, of another shape, not of numbers, or holds a value that is not finite.
        """
        found = self.shape(name)
        if shape is not None and found != tuple(shape):
            raise SourceError(f"{self.path}: {name} is {found}; should be {tuple(shape)}")
        if not (dtype := self._tensors[name].dtype).is_floating_point:
            raise SourceError(f"{self.path}: {name} is of {dtype}; should be floating-point numbers")
        tensor = self._tensors[name].read().to(torch.float32)
        if not bool(tensor.isfinite().all()):
            raise SourceError(f"{self.path}: {name} holds values that are not finite")
        self._unused.discard(name)
        return tensor

    def take_weight(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return a weight, folded where the file has it under weight norm.

        Raises:
            SourceError: as `take`.
        """
        if not self.has(f"{name}.weight") and (normed := self.weight_norm(name, shape)) is not None:
            scale, direction = normed
            return torch._weight_norm(direction, scale, 0)
        return self.take(f"{name}.weight", shape)

    def weight_norm(self, name: str, shape: Sequence[int]) -> tuple[Tensor, Tensor] | None:
        """Return scale and direction of a weight under weight norm over its first dimension, or None without.

        Raises:
            SourceError: as `take`.
        """
        for scale, direction in (
            (f"{name}.weight_g", f"{name}.weight_v"),
            (f"{name}.parametrizations.weight.original0", f"{name}.parametrizations.weight.original1"),
        ):
            if self.has(scale, direction):
                return self.take(scale, (shape[0], *(1 for _ in shape[1:]))), self.take(direction, shape)
        return None

    def leave_out(self, reason: str, prefixes: Iterable[str]) -> None:
        """Leave out the tensors that are not used and whose names begin like this."""
        starts = tuple(prefixes)
        names = sorted(name for name in self._unused if name.startswith(starts))
        if names:
            self.left_out.setdefault(reason, []).extend(names)
            self._unused.difference_update(names)

    def check_all_used(self) -> None:
        """Check that no tensor is left.

        Raises:
            SourceError: one is neither used nor left out; names it.
        """
        if self._unused:
            names = sorted(self._unused)
            raise SourceError(
                f"{self.path}: {names[0]} in {self.what} is not known ({len(names)} such); "
                "should be a file of one of the kinds in docs/import.md"
            )


def whole_number(path: Path, key: str, value: Any) -> int:
    """Return a value of a configuration that should be a whole number above 0.

    Raises:
        SourceError: it is none; names the file and the key.
    """
    if type(value) is not int or not 0 < value < 2**31:
        raise SourceError(f"{path}: {key} is {describe(value)}; should be a whole number above 0")
    return value


def whole_numbers(path: Path, key: str, value: Any) -> list[int]:
    """Return a value of a configuration that should be a list of whole numbers above 0.

    Raises:
        SourceError: it is none; names the file and the key.
    """
    if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_NUMBERS:
        raise SourceError(f"{path}: {key} is {describe(value)}; should be up to {MAX_NUMBERS} whole numbers")
    return [whole_number(path, key, each) for each in value]


def value_at(content: Any, key: str) -> Any:
    """Return the value at a dotted key, or None."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


def describe(value: Any) -> str:
    """Return a value as a message shows it; a large one by its size."""
    if value is None:
        return "missing"
    if isinstance(value, StoredTensor):
        return f"a tensor {value.shape}"
    if isinstance(value, Mapping | list | tuple):
        return f"a {'mapping' if isinstance(value, Mapping) else 'list'} of {len(value)} entries"
    if isinstance(value, str):
        return repr(value[:60])
    is_short = isinstance(value, bool | float | Inert) or (isinstance(value, int) and abs(value) < 2**63)
    return repr(value)[:60] if is_short else f"a {type(value).__name__}"
