"""Files of `torch.save`, in the form of an archive and in the older one, and safetensors: plain values and tensors.

Tensors are read when they are asked for, and only those. Nothing in a file is run.
"""

import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from miipher2.importing.unpickle import MAX_BYTES, Inert, Persistent, PickleError, simplify, unpickle
from miipher2.training.checkpoint import READ_ERRORS

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MAX_DIMENSIONS = 16
DTYPES: dict[str, torch.dtype] = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


class SourceError(ValueError):
    """A file cannot be imported; the message names the file, the key, what it is and what it should be."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is still in its file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@runtime_checkable
class Storages(Protocol):
    """The bytes that tensors are views of, by key."""

    def declare(self, key: str, dtype: torch.dtype, count: int) -> None:
        """Check that there is a storage of so many values."""

    def read(self, key: str) -> bytearray:
        """Return its bytes."""


def read_file(path: Path) -> Any:
    """Return what a file holds, as plain values with `StoredTensor` for tensors and `Inert` for all other objects.

    Raises:
        FileNotFoundError: there is no such file.
        SourceError: it is none of these files, damaged, or made to harm.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as file, reading(path):
        head = file.read(9)
        if zipfile.is_zipfile(path):
            return ArchiveStorages(path, "data.pkl").value
        if head[8:] == b"{":
            return _read_safetensors(path)
        return _LegacyStorages(path).value


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of any error of a damaged file which file it is.

    Raises:
        SourceError: there was one.
    """
    try:
        yield
    except (PickleError, SafetensorError) as error:
        raise SourceError(f"{path}: cannot be read: {error}") from None
    except SourceError:
        raise
    except READ_ERRORS as error:
        raise SourceError(f"{path}: damaged ({type(error).__name__}: {str(error)[:200]})") from None


class ArchiveStorages:
    """One pickle of an archive as `value`, and the storages that it refers to.

    Args:
        pickle_name: `data.pkl`; a TorchScript program also has `constants.pkl`.
    """

    def __init__(self, path: Path, pickle_name: str) -> None:
        self.path = path
        self._archive = zipfile.ZipFile(path)  # open as long as a tensor refers to it: its list is read once
        self._members = {each.filename: each for each in self._archive.infolist()}
        pickles = [name for name in self._members if f"/{name}".endswith(f"/{pickle_name}")]
        if len(pickles) != 1:
            raise SourceError(f"{path}: an archive with {len(pickles)} files {pickle_name}; torch.save writes one")
        root = pickles[0].removesuffix(pickle_name)
        if f"{root}constants.pkl" in self._members and pickle_name == "data.pkl":
            raise SourceError(f"{path}: a TorchScript program; should be weights, such as a state_dict")
        self._root = root
        if f"{root}byteorder" in self._members and (order := self._read(f"{root}byteorder")) != b"little":
            raise SourceError(f"{path}: its numbers are {order[:10]!r}-endian; should be little-endian")
        self._folder = f"{root}data/" if pickle_name == "data.pkl" else f"{root}{pickle_name.removesuffix('.pkl')}/"
        self.value = simplify(unpickle(self._read(pickles[0]))[0], partial(_make_tensor, path, self))

    def declare(self, key: str, dtype: torch.dtype, count: int) -> None:
        """Check that there is a storage of so many values."""
        info = self._members.get(self._folder + key)
        if info is None or info.file_size != count * dtype.itemsize:
            found = "missing" if info is None else f"{info.file_size} bytes long"
            raise SourceError(f"{self.path}: {self._folder}{key} in it is {found}; should hold {count} {dtype}")

    def read(self, key: str) -> bytearray:
        """Return its bytes, whose checksum is compared."""
        try:
            return bytearray(self._read(self._folder + key))
        except READ_ERRORS as error:
            raise SourceError(f"{self.path}: {self._folder}{key} in it is damaged ({str(error)[:100]})") from None

    def read_code(self, max_bytes: int) -> str:
        """Return the code of a TorchScript program, which may be compressed, as text.

        Raises:
            SourceError: it is larger, damaged, or no text.
        """
        files = [each for name, each in self._members.items() if name.startswith(f"{self._root}code/")]
        files = [each for each in files if each.filename.endswith(".py")]
        if (size := sum(each.file_size for each in files)) > max_bytes:
            raise SourceError(f"{self.path}: its code is {size:,} bytes; should be at most {max_bytes:,}")
        try:
            parts = []
            for each in files:
                with self._archive.open(each) as file:
                    parts.append(file.read(max_bytes).decode())
            return "\n".join(parts)
        except READ_ERRORS as error:
            raise SourceError(f"{self.path}: its code is damaged ({str(error)[:100]})") from None

    def _read(self, name: str) -> bytes:
        info = self._members[name]
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > self.path.stat().st_size:
            raise SourceError(f"{self.path}: {name} in it is compressed; torch.save compresses nothing")
        return self._archive.read(info)


class _LegacyStorages:
    """The older form as `value`: five pickles, then the storages, each after its number of values."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            data = file.read(MAX_BYTES)
        head, position = unpickle(data) if data[:1] == b"\x80" else (None, 0)
        if head != LEGACY_MAGIC:
            raise SourceError(f"{path}: is neither a file of torch.save nor safetensors; is it the right file?")
        protocol, position = unpickle(data, position)
        system, position = unpickle(data, position)
        if protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
            raise SourceError(f"{path}: should have the protocol {LEGACY_PROTOCOL} and be little-endian; has not")
        raw, position = unpickle(data, position)
        keys, position = unpickle(data, position)
        self._sizes: dict[str, tuple[torch.dtype, int]] = {}
        self._places: dict[str, int] = {}
        self.value = simplify(raw, partial(_make_tensor, path, self))
        with path.open("rb") as file:
            for key in keys if isinstance(keys, list) else ():
                if not isinstance(key, str) or key not in self._sizes:
                    raise SourceError(f"{path}: damaged: no tensor uses its storage {str(key)[:40]}")
                dtype, count = self._sizes[key]
                file.seek(position)
                if (written := int.from_bytes(file.read(8), "little")) != count:
                    raise SourceError(f"{path}: damaged or cut off: storage {key} has {written} values, not {count}")
                self._places[key] = position + 8
                position += 8 + count * dtype.itemsize
        if position > path.stat().st_size:
            raise SourceError(f"{path}: cut off; should have {position:,} bytes")
        if missing := sorted(self._sizes.keys() - self._places.keys()):
            raise SourceError(f"{path}: damaged: has no storage {missing[0]}")

    def declare(self, key: str, dtype: torch.dtype, count: int) -> None:
        """Check that no other tensor needs another storage of that key."""
        if self._sizes.setdefault(key, (dtype, count)) != (dtype, count):
            raise SourceError(f"{self.path}: damaged: tensors disagree on the storage {key}")

    def read(self, key: str) -> bytearray:
        """Return its bytes."""
        dtype, count = self._sizes[key]
        with self.path.open("rb") as file:
            file.seek(self._places[key])
            return bytearray(file.read(count * dtype.itemsize))


def _make_tensor(path: Path, storages: Storages, made: Inert) -> Any:
    """Return the tensor that a call of one of torch's functions would have rebuilt, or the call, for rarer kinds."""
    function = made.name.rpartition(".")[2]
    arguments = made.arguments
    if function in ("_rebuild_parameter", "_rebuild_parameter_with_state") and arguments:
        inner = arguments[0]
        return _make_tensor(path, storages, inner) if isinstance(inner, Inert) and inner.name != made.name else made
    if function != "_rebuild_tensor_v2":
        return made
    try:
        storage, offset, shape, strides = (*arguments[:2], tuple(arguments[2]), tuple(arguments[3]))
        _, kind, key, _, count, *view = storage.arguments[0]
        dtype = DTYPES[kind.name]
        sizes = (offset, count, *shape, *strides)
        if not isinstance(storage, Persistent) or not isinstance(key, str) or any(each is not None for each in view):
            raise TypeError("no plain storage")
        if not all(type(size) is int and 0 <= size < 2**48 for size in sizes) or len(shape) != len(strides):
            raise TypeError("no plain sizes")
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise SourceError(f"{path}: damaged: it describes a tensor wrongly ({str(error)[:100]})") from None
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    numel = math.prod(shape)
    if len(shape) > MAX_DIMENSIONS or numel > count or (numel and last >= count):
        raise SourceError(f"{path}: damaged: a tensor of {numel} values reaches beyond its storage of {count}")
    storages.declare(key, dtype, count)

    def read() -> Tensor:
        if not numel:
            return torch.empty(shape, dtype=dtype)
        flat = torch.frombuffer(storages.read(key), dtype=dtype)
        return flat.as_strided(shape, strides, offset).clone(memory_format=torch.contiguous_format)

    return StoredTensor(dtype, tuple(shape), read)


def _read_safetensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file by name."""

    def read(name: str) -> Tensor:
        with safe_open(path, "pt") as file:
            return file.get_tensor(name)

    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        return {
            name: StoredTensor(SAFETENSORS[each.get_dtype()], tuple(each.get_shape()), partial(read, name))
            for name, each in slices.items()
        }


SAFETENSORS: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
