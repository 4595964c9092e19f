"""Dataclass fields that declare their range, and the base class that checks them."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import field, fields
from typing import Any

from omegaconf import MISSING

from miipher2.config.paths import find_name_problem


class ConfigValueError(ValueError):
    """A value is out of its range. `section` and `key` locate it until the loader knows the full dotted key."""

    def __init__(self, section: object, key: str, value: object, expected: str) -> None:
        super().__init__(f"{key}={in_one_line(value)}: {expected}")
        self.section, self.key, self.value, self.expected = section, key, value, expected


def in_one_line(value: object) -> str:
    """Return a value as a message shows it: in quotes where it is empty, or would break the line."""
    text = str(value)
    return text if text and text.isprintable() else repr(text)


class Section:
    """Base of every configuration dataclass: checks each field against the range it was declared with.

    A subclass that has to compare fields overrides `__post_init__`, calls this one first and raises with `reject`.
    """

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]  # every subclass is a dataclass
            check: Callable[[Any], str | None] | None = each.metadata.get("check")
            value = getattr(self, each.name)
            # OmegaConf builds nested defaults before any value is known.
            if value is None or value == MISSING:
                continue
            if check is not None and (expected := check(value)) is not None:
                self.reject(each.name, expected)
            if not each.metadata.get("may_be_infinite") and not _is_finite(value):
                self.reject(each.name, "should be finite")

    def reject(self, key: str, expected: str) -> None:
        """Raise ConfigValueError for one field."""
        raise ConfigValueError(self, key, getattr(self, key), expected)


def positive(default: Any = MISSING, *, may_be_infinite: bool = False) -> Any:
    """Declare a number greater than 0."""
    return _checked(default, lambda value: None if value > 0 else "should be greater than 0", may_be_infinite)


def at_least(low: int | float, default: Any = MISSING) -> Any:
    """Declare a number of at least `low`."""
    return _checked(default, lambda value: None if value >= low else f"should be at least {low:g}")


def all_positive(default: Any = MISSING) -> Any:
    """Declare a non-empty list of numbers greater than 0."""
    return _checked(
        default,
        lambda values: None if values and all(value > 0 for value in values) else "should list numbers greater than 0",
    )


def all_at_least(low: int | float, default: Any = MISSING) -> Any:
    """Declare a non-empty list of numbers of at least `low`."""
    expected = f"should list numbers of at least {low:g}"
    return _checked(default, lambda values: None if values and all(value >= low for value in values) else expected)


def share(default: Any = MISSING) -> Any:
    """Declare a number from 0 to 1."""
    return _checked(default, lambda value: None if 0 <= value <= 1 else "should be from 0 to 1")


def file_or_none(content: str) -> Any:
    """Declare the path of a file, or None. Typed as Any, since OmegaConf would turn true and 200 into such paths."""
    expected = f"should be the path of {content}, or null"
    return _checked(None, lambda value: None if isinstance(value, str) and value else expected)


def run_name() -> Any:
    """Declare the name of a run, whose folder is `exp/<name>`."""
    return _checked(MISSING, find_name_problem)


def any_seed() -> Any:
    """Declare the seed of random generators, as PyTorch takes it."""
    return _checked(MISSING, lambda value: None if -(2**63) <= value < 2**64 else "should be from -2**63 to 2**64 - 1")


def on_device(*more: str) -> Any:
    """Declare where tensors are: `more`, cpu, cuda or one CUDA device."""
    expected = f"should be {', '.join((*more, 'cpu'))}, cuda or cuda:<index>"
    is_device = re.compile(r"cpu|cuda(:\d+)?").fullmatch
    return _checked(MISSING, lambda value: None if value in more or is_device(value) else expected)


def non_empty(default: Any = MISSING) -> Any:
    """Declare a text that is not empty, as an unset shell variable is."""
    return _checked(default, lambda value: None if value else "should not be empty")


def one_of(*allowed: str, default: Any = MISSING) -> Any:
    """Declare a choice."""
    return _checked(default, lambda value: None if value in allowed else f"should be one of {', '.join(allowed)}")


def some_of(allowed: Sequence[Any], default: Sequence[Any]) -> Any:
    """Declare a non-empty list of choices."""
    text = ", ".join(map(str, allowed)) if len(allowed) <= 20 else f"{min(allowed)} to {max(allowed)}"
    return _checked(
        list(default),
        lambda values: None if values and all(each in allowed for each in values) else f"should list some of {text}",
    )


def interval(low: int | float = float("-inf"), high: int | float = float("inf"), default: Any = MISSING) -> Any:
    """Declare a list [first, last] with low <= first <= last <= high."""

    def check(values: Sequence[int | float]) -> str | None:
        if len(values) == 2 and low <= values[0] <= values[1] <= high:
            return None
        within = "" if (low, high) == (float("-inf"), float("inf")) else f" from {low:g} to {high:g}"
        return f"should be [low, high]{' with numbers' + within if within else ''}"

    return _checked(default, check)


def whole_frames(default: Any = MISSING) -> Any:
    """Declare a positive duration in seconds that is a whole number of 20 ms frames."""

    def check(seconds: int | float) -> str | None:
        if not seconds > 0:
            return "should be greater than 0"
        if math.isinf(seconds):
            return "should be finite"
        return None if seconds * 50 == round(seconds * 50) else "should be a whole number of frames of 0.02 s"

    return _checked(default, check)


def _is_finite(value: Any) -> bool:
    """Return whether a number, or each in a list or mapping, is finite; what is no number counts as finite."""
    if isinstance(value, list | dict):
        return all(map(_is_finite, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, float) or math.isfinite(value)


def _checked(default: Any, check: Callable[[Any], str | None], may_be_infinite: bool = False) -> Any:
    metadata = {"check": check, "may_be_infinite": may_be_infinite}
    if isinstance(default, list | tuple):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)
