"""Pickles to plain values without running anything in them: no class of a file is ever looked up, let alone called.

Every class or function that a pickle names becomes an `Inert` class of our own, which keeps what it is called with.
What remains is turned into plain values afterwards, by name: mappings, configuration objects, references to tensors.
"""

import io
import pickle
import pickletools
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import Any, ClassVar

MAX_BYTES, MAX_OPERATIONS, MAX_DEPTH = 2**24, 1_000_000, 100  # of a pickle beside its tensors; the largest known: 1 MB
# They allocate what they announce, or reach objects of this process.
REFUSED = {"BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4"}
PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
SCALARS = (type(None), bool, int, float, complex, str, bytes)

MAPPINGS = {
    *("collections.OrderedDict", "collections.defaultdict", "collections.Counter"),
    *("builtins.dict", "__builtin__.dict"),
}
SEQUENCES = {
    *(f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in ("list", "tuple", "set", "frozenset")),
    "torch.Size",
}
NAMESPACES = {"argparse.Namespace", "types.SimpleNamespace"}
OMEGACONF = {"omegaconf.dictconfig.DictConfig": "_content", "omegaconf.listconfig.ListConfig": "_content"}
OMEGACONF_NODES = "omegaconf.nodes."


class PickleError(ValueError):
    """A pickle is damaged, too large, or made to harm."""


class Inert:
    """An object that was not made: the name of its class or function, and what it would have been made of.

    Attributes:
        name: of the class or function, with its module.
        arguments: of the call.
        state: what `__setstate__` would have got.
        pairs, entries: what would have been put into it, were it a mapping or a sequence.
    """

    name: ClassVar[str] = ""

    def __new__(cls, *arguments: Any, **_: Any) -> "Inert":
        """Keep the arguments."""
        made = object.__new__(cls)
        made.arguments, made.state, made.pairs, made.entries = arguments, None, [], []
        return made

    arguments: tuple[Any, ...]
    state: Any
    pairs: list[tuple[Any, Any]]
    entries: list[Any]

    def __call__(self, *arguments: Any) -> "Inert":
        """Return a nameless one, as a call of what a call had returned."""
        return Inert(*arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.pairs.append((key, value))

    def append(self, value: Any) -> None:
        """Keep a value."""
        self.entries.append(value)

    def extend(self, values: Any) -> None:
        """Keep values."""
        self.entries.extend(values)

    add = append

    def __repr__(self) -> str:
        return f"<{self.name}, not made>"


class Persistent(Inert):
    """What a pickle refers to outside itself; torch puts `("storage", type, key, location, count)` there."""


def unpickle(data: bytes, start: int = 0) -> tuple[Any, int]:
    """Return what a pickle describes, raw (see `simplify`), and the position after its end.

    Raises:
        PickleError: it is cut off, damaged or too large, or has an instruction that no such file needs.
    """
    end = _scan(data, start)
    try:
        return _Unpickler(io.BytesIO(data[start:end]), encoding="latin1").load(), end
    except _ERRORS as error:
        raise PickleError(f"its pickle is damaged ({type(error).__name__}: {str(error)[:100]})") from None


# Everything that the instructions of a damaged pickle can lead to, since only `Inert` and plain values are involved.
_ERRORS = (
    *(pickle.UnpicklingError, AttributeError, EOFError, ImportError, LookupError, MemoryError, RecursionError),
    *(TypeError, ValueError, OverflowError),
)


class _Unpickler(pickle.Unpickler):
    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._classes: dict[str, type[Inert]] = {}

    def find_class(self, module: str, name: str) -> type[Inert]:
        """Return an inert class; one for each name, so that nothing outlives the pickle."""
        full = f"{module}.{name}"
        return self._classes.setdefault(full, type("Inert", (Inert,), {"name": full}))

    def persistent_load(self, pid: Any) -> Persistent:
        """Return a reference."""
        return Persistent(pid)


def _scan(data: bytes, start: int) -> int:
    """Check the instructions of a pickle one by one, and return the position after the last."""
    file = io.BytesIO(data[start : start + MAX_BYTES])
    try:
        for number, (operation, argument, position) in enumerate(pickletools.genops(file)):
            if operation.name in REFUSED:
                raise PickleError(f"its pickle has the instruction {operation.name}, which no such file needs")
            if operation.name in PUTS and (argument is None or argument > number):
                raise PickleError(f"its pickle has {argument} as the place of a value, after {number} instructions")
            if number == MAX_OPERATIONS:
                raise PickleError(f"its pickle has more than {MAX_OPERATIONS:,} instructions")
            end = start + (position or 0) + 1
    except PickleError:
        raise
    except (*_ERRORS, AssertionError) as error:
        size = f", or over {MAX_BYTES:,} bytes" if len(data) - start > MAX_BYTES else ""
        raise PickleError(f"its pickle is damaged or cut off{size} ({str(error)[:100]})") from None
    return end


def simplify(value: Any, make_tensor: Callable[[Inert], Any]) -> Any:
    """Return plain values: dicts, lists, tuples, numbers, strings, tensors; what is none of these stays `Inert`.

    Args:
        make_tensor: makes a tensor of what would have called one of torch's functions that rebuild one.

    Raises:
        PickleError: a value contains itself, or is nested too deeply.
    """
    return _Simplifier(make_tensor)(value, 0)


class _Simplifier:
    def __init__(self, make_tensor: Callable[[Inert], Any]) -> None:
        self._make_tensor = make_tensor
        # By id, since a value may be shared a million times; so nothing made here may be passed to `__call__`.
        self._done: dict[int, Any] = {}
        self._open: set[int] = set()

    def __call__(self, value: Any, depth: int) -> Any:
        if isinstance(value, (*SCALARS, type)):
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        if id(value) in self._open or depth > MAX_DEPTH:
            raise PickleError(f"its pickle has a value that contains itself, or is nested over {MAX_DEPTH} deep")
        self._open.add(id(value))
        done = self._simplify(value, depth + 1)
        self._open.remove(id(value))
        self._done[id(value)] = done
        return done

    def _simplify(self, value: Any, depth: int) -> Any:
        if isinstance(value, dict):
            return self._mapping(value.items(), depth)
        if isinstance(value, list | tuple | set | frozenset):
            parts = [self(part, depth) for part in value]
            return tuple(parts) if isinstance(value, tuple) else parts
        assert isinstance(value, Inert)
        return self._inert(value, depth)

    def _inert(self, value: Inert, depth: int) -> Any:
        name, arguments = value.name, value.arguments
        if name.startswith(("torch._utils._rebuild_", "torch._tensor._rebuild_")):
            return self._make_tensor(value)
        if name in MAPPINGS or value.pairs:
            return self._mapping(value.pairs or _initial_pairs(arguments), depth)
        if name in SEQUENCES:
            return self(arguments[0], depth) if arguments else ()
        if value.entries:
            return self(value.entries, depth)
        if name.startswith("pathlib.") and all(isinstance(part, str) for part in arguments):
            return str(PurePosixPath(*arguments))
        if name in OMEGACONF or name.startswith(OMEGACONF_NODES):
            return self(_state(value).get(OMEGACONF.get(name, "_val")), depth)
        if name in NAMESPACES:
            return self._mapping(_state(value).items(), depth)
        return value

    def _mapping(self, pairs: Iterable[tuple[Any, Any]], depth: int) -> dict[Any, Any]:
        try:
            return {key: self(each, depth) for key, each in pairs}
        except TypeError:
            raise PickleError("its pickle has a mapping with a key that cannot be one") from None


def _initial_pairs(arguments: tuple[Any, ...]) -> list[tuple[Any, Any]]:
    """Return the pairs that a mapping would have been called with."""
    first = arguments[-1] if arguments else ()
    if isinstance(first, dict):
        return list(first.items())
    pairs = first if isinstance(first, list | tuple) else ()
    return [(pair[0], pair[1]) for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2]


def _state(value: Inert) -> dict[Any, Any]:
    """Return the attributes that an object would have got."""
    parts = value.state if isinstance(value.state, tuple) else (value.state,)
    return {key: each for part in parts if isinstance(part, dict) for key, each in part.items()}
