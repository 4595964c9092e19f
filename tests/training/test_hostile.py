"""Files that are damaged, malicious or not ours are refused quickly, with a specific error and nothing changed."""

import json
import os
import pickle
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import Tiny, content_of, rewrite, same

from miipher2.training import checkpoint
from miipher2.training.checkpoint import FORMAT, CheckpointError, load
from miipher2.training.summary import json_path

PLACES = 150  # where files are cut and bits flipped, over the whole file


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint; not to be written to."""
    folder = tmp_path_factory.mktemp("good") / "run"
    Tiny(folder, steps=4)()
    return folder / "checkpoint_4.pt"


@pytest.fixture
def file(good: Path, tmp_path: Path) -> Path:
    """Return a copy of a checkpoint and its JSON, alone in a folder."""
    folder = tmp_path / "given"
    folder.mkdir()
    for path in (good, json_path(good)):
        shutil.copyfile(path, folder / path.name)
    return folder / good.name


@contextmanager
def refused(file: Path, tmp_path: Path, match: str = "", stage: str = "tiny") -> Iterator[None]:
    """Check that a resume from the file is refused within a second, names it, and changes nothing."""
    yield
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    start = time.monotonic()
    with pytest.raises(CheckpointError, match=match) as caught:
        Tiny(tmp_path / "run", stage=stage)(file)
    assert time.monotonic() - start < 1
    assert str(file) in str(caught.value)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def places(size: int) -> list[int]:
    """Return positions in a file: every byte at both ends, and evenly spaced in between."""
    return sorted({*range(24), *range(size - 24, size), *range(0, size, max(1, size // PLACES))} & set(range(size)))


@pytest.mark.parametrize("has_json", [True, False])
def test_a_file_truncated_at_any_length_is_refused(file: Path, tmp_path: Path, has_json: bool) -> None:
    data = file.read_bytes()
    if not has_json:
        json_path(file).unlink()
    start = time.monotonic()
    for length in places(len(data)):
        file.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            load(file)
    assert time.monotonic() - start < 20
    with refused(file, tmp_path, "damaged"):
        file.write_bytes(data[: len(data) // 2])


def test_one_flipped_bit_anywhere_is_detected(file: Path) -> None:
    data = file.read_bytes()
    for place in places(len(data)):
        file.write_bytes(_flipped(data, place, place % 8))
        with pytest.raises(CheckpointError, match="damaged, sha256 is"):
            load(file)


def test_one_flipped_bit_in_a_file_without_json_is_detected_or_harmless(file: Path, good: Path) -> None:
    """The archive's own checksums cover its contents; a date or padding in it may differ."""
    data, content = file.read_bytes(), content_of(good)
    json_path(file).unlink()
    with zipfile.ZipFile(file) as archive:
        headers = [
            info.header_offset + byte for info in archive.infolist()[:3] for byte in range(30 + len(info.filename))
        ]
        directory = range(archive.start_dir, min(len(data), archive.start_dir + 250))
    detected = 0
    for place in sorted({*places(len(data)), *headers, *directory, *range(len(data) - 120, len(data))}):
        for bit in {place % 8, 3, 0} if place in directory else {place % 8}:
            file.write_bytes(_flipped(data, place, bit))
            try:
                loaded = load(file)[0].as_dict()
            except CheckpointError:
                detected += 1
            else:
                assert same(loaded, content), f"byte {place}, bit {bit}"
    assert detected > PLACES


def _flipped(data: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 1 << bit
    return bytes(changed)


class Harm:
    """A pickle that runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["archive", "archive with its digest", "plain pickle", "legacy", "in the state"])
def test_no_pickle_is_executed(file: Path, tmp_path: Path, form: str) -> None:
    target = tmp_path / "created"
    match = "damaged|safely"
    with refused(file, tmp_path, match):
        content = content_of(file)
        content["best"] = {"value": Harm(target)}
        if form == "plain pickle":
            file.write_bytes(pickle.dumps(content["best"]))
        elif form == "legacy":
            torch.save(content, file, _use_new_zipfile_serialization=False)
        elif form == "in the state":
            content = content_of(file) | {"model": {"g.0.weight": Harm(target)}}
            torch.save(content, file)
        else:
            torch.save(content, file)
        if form in ("archive with its digest", "legacy", "plain pickle"):
            write_json(file)
        else:
            json_path(file).unlink()
    assert not target.exists()
    if form == "archive":  # the payload is real
        torch.load(file, weights_only=False)
        assert target.exists()


def write_json(file: Path) -> None:
    """Write a matching JSON, as an attacker would."""
    import hashlib

    json_path(file).write_text(json.dumps({"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}))


def test_another_stages_checkpoint_is_refused_and_both_are_named(file: Path, tmp_path: Path) -> None:
    with refused(file, tmp_path, "a checkpoint of the stage tiny; this is other", stage="other"):
        pass


def test_a_newer_format_is_refused_and_both_are_named(file: Path, tmp_path: Path) -> None:
    with refused(file, tmp_path, f"format {FORMAT + 1}; this version reads up to {FORMAT}"):
        rewrite(file, lambda content: content.update(format=FORMAT + 1))


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 5000, b"step,loss\n1,2\n" * 100, b"PK\x03\x04", b"PK\x05\x06" + b"\0" * 18]
)
@pytest.mark.parametrize("has_json", [True, False])
def test_a_file_that_is_not_a_checkpoint_is_refused(file: Path, tmp_path: Path, data: bytes, has_json: bool) -> None:
    with refused(file, tmp_path, "not a checkpoint"):
        file.write_bytes(data)
        write_json(file) if has_json else json_path(file).unlink()


@pytest.mark.parametrize(
    "content", [[1, 2], {"state_dict": {}}, {"format": "1"}, {"format": True}, {"format": -1}, 3, None]
)
def test_other_content_saved_by_torch_is_refused(file: Path, tmp_path: Path, content: Any) -> None:
    with refused(file, tmp_path, "not a checkpoint of this project|a checkpoint without"):
        json_path(file).unlink()
        torch.save(content, file)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"sha256": null}', b'{"bytes": 3}', b"[" * 99999]
)
def test_a_damaged_json_is_named(file: Path, text: bytes) -> None:
    json_path(file).write_bytes(text)
    with pytest.raises(CheckpointError, match=r"checkpoint_4\.json"):
        load(file)


def test_a_large_file_of_something_else_is_refused_quickly(file: Path, tmp_path: Path) -> None:
    with refused(file, tmp_path, "damaged or not a checkpoint"):
        json_path(file).unlink()
        file.write_bytes(os.urandom(64 * 2**20))


@pytest.mark.parametrize("kind", ["missing", "folder", "dangling link", "pipe"])
def test_a_path_that_is_not_a_file_is_named_before_anything_is_touched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "checkpoint_4.pt"
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(FileNotFoundError) as caught:
        Tiny(tmp_path / "run")(path)
    assert str(caught.value) == f"Checkpoint specified in `resume_from` not found: {path}"
    assert not (tmp_path / "run").exists()


def test_only_what_can_be_read_back_is_written(tmp_path: Path, good: Path) -> None:
    import numpy as np

    for value in (np.float64(1.0), torch.nn.Parameter(torch.ones(1)), {1, 2}, Path("x"), torch.__version__):
        with pytest.raises(AssertionError, match="in a checkpoint"):
            checkpoint.save(tmp_path, replace(load(good)[0], best={"value": value}), {})
    assert list(tmp_path.iterdir()) == []
