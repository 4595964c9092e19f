"""Reading other people's files: tensors and plain values come out, and nothing in a file is ever run."""

import argparse
import builtins
import collections
import io
import os
import pathlib
import pickle
import random
import shutil
import struct
import time
import types
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from miipher2.importing.torch_file import SourceError, StoredTensor, read_file
from miipher2.importing.unpickle import MAX_OPERATIONS, Inert

CONFIG = {"model": {"sizes": [7, 3, [1, 2]], "name": None}, "rate": 22_050, "same": "${rate}", "ratio": 0.5}
TENSORS = {
    "plain": torch.arange(12.0).view(3, 4),
    "a view": torch.arange(12.0).view(3, 4).T[1:3],
    "half": torch.ones(3, dtype=torch.float16),
    "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "long": torch.tensor(3),
    "empty": torch.empty(0, 3),
    "flags": torch.tensor([True, False]),
}


def save(path: Path, content: Any, form: str) -> Path:
    """Save content in a form of `torch.save`."""
    torch.save(content, path, _use_new_zipfile_serialization=form != "legacy", pickle_protocol=4 if form == "4" else 2)
    return path


def archive(path: Path, data: bytes, storages: dict[str, bytes] | None = None, **settings: Any) -> Path:
    """Write an archive whose pickle is made by hand."""
    with zipfile.ZipFile(path, "w", **settings) as file:
        file.writestr("archive/data.pkl", data)
        for name, content in (storages or {}).items():
            file.writestr(f"archive/data/{name}", content)
    return path


def read(value: Any) -> Any:
    """Return content with its tensors read."""
    if isinstance(value, dict):
        return {key: read(each) for key, each in value.items()}
    return value.read() if isinstance(value, StoredTensor) else value


@pytest.mark.parametrize("form", ["archive", "legacy", "4"])
def test_tensors_and_plain_values_come_out(tmp_path: Path, form: str) -> None:
    shared = torch.arange(6.0)
    content = {
        "tensors": TENSORS,
        "state": torch.nn.Sequential(torch.nn.Linear(3, 2)).state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "halves": collections.OrderedDict(first=shared[:3], second=shared[3:]),
        "config": OmegaConf.create(CONFIG),
        "sections": dict(OmegaConf.create(CONFIG)),  # each remembers the whole configuration as its parent
        "options": argparse.Namespace(lr=0.1, betas=[0.9, 0.99]),
        "simple": types.SimpleNamespace(x=1),
        "default": collections.defaultdict(dict, {"a": {"b": 1}}),
        "plain": [1, 2.5, "text", None, True, (1, (2,)), 2**70],
        "set": {3},
        "size": torch.Size([2, 3]),
        "path": pathlib.PurePosixPath("/a/b"),
        "python": random.getstate(),
    }
    found = read(read_file(save(tmp_path / "file.pt", content, form)))
    for name, tensor in {**TENSORS, **content["state"]}.items():
        other = {**found["tensors"], **found["state"]}[name]
        assert other.dtype == tensor.dtype
        assert torch.equal(other, tensor)
    assert torch.equal(found["parameter"], torch.ones(2))
    assert torch.equal(found["halves"]["second"], shared[3:])
    assert found["config"] == CONFIG
    assert found["sections"] == CONFIG | {"same": 22_050}  # dict() resolves
    assert found["options"] == {"lr": 0.1, "betas": [0.9, 0.99]}
    assert found["simple"] == {"x": 1}
    assert found["default"] == {"a": {"b": 1}}
    assert (found["plain"], found["set"], found["path"]) == (content["plain"], [3], "/a/b")
    assert tuple(found["size"]) == (2, 3)
    assert found["python"] == content["python"]


def test_safetensors_come_out(tmp_path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "file")
    found = read(read_file(tmp_path / "file"))
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("form", ["archive", "legacy"])
def test_other_objects_stay_inert(tmp_path: Path, form: str) -> None:
    content = {"numpy": np.random.default_rng(0), "scalar": np.float64(3.0), "type": dict, "dtype": torch.float32}
    found = read_file(save(tmp_path / "file.pt", content, form))
    assert all(isinstance(each, Inert) or issubclass(each, Inert) for each in found.values())
    assert found["dtype"].name == "torch.float32"


class Harm:
    """A pickle that calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def harms(target: Path) -> dict[str, Any]:
    """Return objects whose pickles, where they are run, make a folder."""
    code = f"__import__('os').mkdir({str(target)!r})"
    inner = Harm(os.mkdir, str(target))
    return {
        "os.system": Harm(os.system, f"mkdir {target}"),
        "os.mkdir": inner,
        "eval": Harm(eval, code),
        "exec": Harm(builtins.exec, code),
        "in a tensor's arguments": Harm(torch._utils._rebuild_tensor_v2, inner, 0, (1,), (1,), False, None),
        "in a parameter": Harm(torch._utils._rebuild_parameter, inner, False, None),
        "in an ordered dict": Harm(collections.OrderedDict, inner),
        "as the state of an object": Harm(argparse.Namespace, inner),
        "getattr": Harm(getattr, Harm(__import__, "os"), "mkdir"),
    }


@pytest.mark.parametrize("form", ["archive", "legacy", "4", "pickle"])
@pytest.mark.parametrize("name", list(harms(Path("x"))))
def test_nothing_in_a_file_is_run(tmp_path: Path, name: str, form: str) -> None:
    target, path = tmp_path / "made", tmp_path / "file.pt"
    content = {"model_state_dict": {"weight": torch.ones(2)}, "harm": harms(target)[name]}
    path.write_bytes(pickle.dumps(content["harm"])) if form == "pickle" else save(path, content, form)
    with suppress(SourceError):
        read(read_file(path))
    assert not target.exists()
    if name in ("os.system", "os.mkdir", "eval", "exec"):  # the harm is real
        pickle.loads(pickle.dumps(content["harm"]))
        assert target.exists()


def test_a_configuration_with_harm_in_it_stays_a_configuration(tmp_path: Path) -> None:
    config = OmegaConf.create({"a": 1, "b": {"c": 2}})
    config.__dict__["_parent"] = Harm(os.mkdir, str(tmp_path / "made"))
    assert read_file(save(tmp_path / "file.pt", {"config": config}, "archive")) == {"config": {"a": 1, "b": {"c": 2}}}
    assert not (tmp_path / "made").exists()


def test_a_pickle_cannot_change_this_process(tmp_path: Path) -> None:
    """BUILD on a class or function sets its attributes, where it finds a real one."""
    build = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x0c\x00\x00\x00__defaults__K\x01\x85sb."
    with pytest.raises(SourceError, match="damaged"):
        read_file(archive(tmp_path / "file.pt", build))
    assert torch._utils._rebuild_tensor_v2.__defaults__ == (None,)


def tensor_pickle(shape: Any = (2,), stride: Any = (1,), offset: Any = 0, count: Any = 4, storage: Any = None) -> bytes:
    """Return the pickle of a tensor over a storage of four floats, or what it says instead."""

    class Described:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Stored(), offset, shape, stride, False, collections.OrderedDict())

    class Stored:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            default = ("storage", torch.FloatStorage, "0", "cpu", count)
            return (default if storage is None else storage) if isinstance(value, Stored) else None

    file = io.BytesIO()
    Pickler(file, protocol=2).dump({"weight": Described()})
    return file.getvalue()


def test_a_tensor_made_by_hand_is_read(tmp_path: Path) -> None:
    path = archive(tmp_path / "file.pt", tensor_pickle(offset=1), {"0": np.arange(4, dtype=np.float32).tobytes()})
    assert read(read_file(path))["weight"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"shape": (5,)}, "beyond its storage"),
        ({"offset": 3}, "beyond its storage"),
        ({"stride": (4,)}, "beyond its storage"),
        ({"shape": (2**40,), "stride": (0,)}, "beyond its storage"),
        ({"shape": (2**30, 2**30, 0), "stride": (1, 1, 1), "offset": 2**60}, "wrongly"),
        ({"shape": (1,) * 40, "stride": (1,) * 40}, "beyond its storage"),
        ({"shape": (-1,)}, "wrongly"),
        ({"stride": (-1,)}, "wrongly"),
        ({"offset": -1}, "wrongly"),
        ({"offset": 1.5}, "wrongly"),
        ({"offset": True}, "wrongly"),
        ({"shape": (2, 2)}, "wrongly"),
        ({"shape": "ab"}, "wrongly"),
        ({"shape": None}, "wrongly"),
        ({"count": 2**40}, "should hold"),
        ({"count": 3}, "should hold"),
        ({"storage": ("storage", torch.FloatStorage, "1", "cpu", 4)}, "should hold"),
        ({"storage": ("storage", torch.FloatStorage, "../data.pkl", "cpu", 4)}, "should hold"),
        ({"storage": ("storage", torch.FloatStorage, 0, "cpu", 4)}, "wrongly"),
        ({"storage": ("storage", os.system, "0", "cpu", 4)}, "wrongly"),
        ({"storage": ("storage",)}, "wrongly"),
        ({"storage": "0"}, "wrongly"),
        ({"storage": ("storage", torch.FloatStorage, "0", "cpu", 4, ("1", 0, 4))}, "wrongly"),
    ],
    ids=str,
)
def test_a_tensor_described_wrongly_is_refused(tmp_path: Path, changed: dict[str, Any], match: str) -> None:
    with pytest.raises(SourceError, match=match):
        read(read_file(archive(tmp_path / "file.pt", tensor_pickle(**changed), {"0": bytes(16)})))


def laughs(levels: int) -> list[Any]:
    """Return lists of lists, of 10 to the power of `levels` in all, in a small pickle."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value] * 10
    return value


def nested(levels: int) -> bytes:
    return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."


BOMBS = {
    "a place of a value far away": (b"\x80\x02]r\xff\xff\xff\x7f.", "as the place of a value"),
    "a bytearray of a terabyte": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "damaged or cut off"),
    "a bytearray": (b"\x80\x05\x96" + struct.pack("<Q", 3) + b"abc.", "BYTEARRAY8"),
    "bytes of a terabyte": (b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".", "damaged or cut off"),
    "text of a terabyte": (b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b".", "damaged or cut off"),
    "a frame of a terabyte": (b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b".", "damaged"),
    "an extension": (b"\x80\x02\x82\x01.", "EXT1"),
    "a million values": (b"\x80\x02]" + b"]0" * (MAX_OPERATIONS // 2) + b".", "more than"),
    "a deep nest": (nested(100_000), "nested"),
    "itself": (b"\x80\x02]q\x00h\x00a.", "contains itself"),
    "a number of a million digits": (b"\x80\x02L" + b"9" * 1_000_000 + b"L\n.", "damaged"),
    "nothing": (b"", "damaged"),
    "no end": (b"\x80\x02", "damaged"),
    "an empty stack": (b"\x80\x02.", "damaged"),
    "a list as a key": (b"\x80\x02ccollections\nOrderedDict\n)R]K\x01s.", "cannot be one"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_quickly(tmp_path: Path, name: str) -> None:
    data, match = BOMBS[name]
    start = time.monotonic()
    with pytest.raises(SourceError, match=match):
        read_file(archive(tmp_path / "file.pt", data))
    assert time.monotonic() - start < 5


def test_shared_values_are_not_repeated(tmp_path: Path) -> None:
    value = read_file(archive(tmp_path / "file.pt", pickle.dumps(laughs(50), protocol=2)))
    assert value[0] is value[9]


def test_compressed_and_incomplete_archives_are_refused(tmp_path: Path) -> None:
    data = pickle.dumps({"a": [0] * 100_000}, protocol=2)
    with pytest.raises(SourceError, match="is compressed"):
        read_file(archive(tmp_path / "deflated.pt", data, compression=zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(tmp_path / "two.pt", "w") as file:
        file.writestr("a/data.pkl", data)
        file.writestr("b/data.pkl", data)
    with pytest.raises(SourceError, match=r"2 files data\.pkl"):
        read_file(tmp_path / "two.pt")
    with zipfile.ZipFile(tmp_path / "big.pt", "w") as file:
        file.writestr("a/data.pkl", data)
        file.writestr("a/byteorder", "big")
    with pytest.raises(SourceError, match="should be little-endian"):
        read_file(tmp_path / "big.pt")


def test_torchscript_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "file.pt")
    with pytest.raises(SourceError, match="a TorchScript program"):
        read_file(tmp_path / "file.pt")


@pytest.mark.parametrize("form", ["archive", "legacy", "safetensors"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path, form: str) -> None:
    whole, path = tmp_path / "whole", tmp_path / "cut.pt"
    content = {"a": torch.arange(20.0), "b": torch.ones(3)}
    save_file(content, whole) if form == "safetensors" else save(whole, content, form)
    data = whole.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(SourceError, match=r"cut\.pt: "):
            read(read_file(path))


@pytest.mark.parametrize("form", ["archive", "legacy"])
def test_a_flipped_bit_is_an_error_that_names_the_file_or_harmless(tmp_path: Path, form: str) -> None:
    whole, path = tmp_path / "whole", tmp_path / "flipped.pt"
    save(whole, {"state": torch.nn.Linear(3, 2).state_dict(), "config": OmegaConf.create({"a": [1]})}, form)
    data, refused = bytearray(whole.read_bytes()), 0
    for place in range(0, len(data), 5):
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        data[place] ^= 1 << place % 8
        try:
            read(read_file(path))
        except SourceError as error:
            refused += str(path) in str(error)
    assert refused > 50


@pytest.mark.parametrize("data", [b"", b"\0" * 5000, b"step,loss\n" * 100, b"\x80\x02K\x01.", bytes(range(256)) * 4096])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file.pt").write_bytes(data)
    with pytest.raises(SourceError, match=r"neither a file of torch\.save nor safetensors|damaged"):
        read_file(tmp_path / "file.pt")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_file(tmp_path)


def test_a_damaged_storage_is_noticed_when_it_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "file.pt", {"a": torch.full((50,), 1.25), "b": torch.ones(3)}, "archive")
    data = path.read_bytes()
    place = data.index(struct.pack("<f", 1.25) * 50)
    shutil.copyfile(path, tmp_path / "damaged.pt")
    (tmp_path / "damaged.pt").write_bytes(data[:place] + b"\x01" + data[place + 1 :])
    content = read_file(tmp_path / "damaged.pt")
    assert content["b"].read().tolist() == [1, 1, 1]
    with pytest.raises(SourceError, match="is damaged"):
        content["a"].read()
