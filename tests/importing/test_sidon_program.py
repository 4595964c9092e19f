"""Sidon's TorchScript release: the same features and wave, without running it, and the check that does run it."""

import json
import re
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from other_projects import relative_difference
from other_sidon import LAYERS, Sidon, save_decoder_program, save_encoder_program, save_w2v_bert
from tiny_checkpoints import Command
from tiny_weights import wave

from miipher2.importing.torch_file import SourceError
from miipher2.importing.torchscript import MAX_CODE_BYTES, read_program
from miipher2.inference.restorer import Restorer


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Sidon:
    """Return a checkpoint, and in its folder programs of each form; not to be written to."""
    folder = tmp_path_factory.mktemp("sidon")
    save_w2v_bert(folder)
    source = Sidon(folder)
    for form in ("beside", "merged", "joined"):
        save_encoder_program(source, folder / f"{form}.pt", form)
    save_decoder_program(source, folder / "decoder.pt")
    return source


def words(source: Sidon, out: Path, encoder: str = "beside", decoder: str = "decoder") -> list[Any]:
    folder = source.encoder
    files = ["--adapter", folder / f"{encoder}.pt", "--vocoder", folder / f"{decoder}.pt"]
    return ["import", out, *files, "--encoder", folder]


@pytest.mark.parametrize("form", ["beside", "merged", "joined"])
def test_chain_is_that_of_the_source(source: Sidon, miipher2: Command, tmp_path: Path, form: str) -> None:
    result = miipher2(*words(source, tmp_path / "out", form))
    assert result.code == 0, result.error
    restorer = Restorer.from_published(tmp_path / "out/adapter", tmp_path / "out/vocoder")
    sound = wave(320 * 40)
    expected = source.features(restorer.encoder.front_end(torch.from_numpy(sound)[None]))[0]
    features = restorer.features(sound)
    assert relative_difference(features, expected) < 1e-5
    found, wanted = restorer.vocode(features), source.decode(expected)
    assert relative_difference(found[: 38 * 960], wanted[: 38 * 960]) < 1e-5


def test_joined_layers_are_joined(source: Sidon) -> None:
    """Else the form would test nothing."""
    counts = {}
    for form in ("beside", "joined"):
        uses = read_program(source.encoder / f"{form}.pt").uses
        counts[form] = sum(use.kind == "linear" for use in uses)
    assert counts["beside"] - counts["joined"] == 2 * LAYERS


def test_every_constant_is_used_or_named(source: Sidon, miipher2: Command, tmp_path: Path) -> None:
    assert miipher2(*words(source, tmp_path / "out")).code == 0
    left_out = {
        part: json.loads((tmp_path / f"out/{part}/imported.json").read_text())["left_out"]
        for part in ("adapter", "vocoder")
    }
    assert len(left_out["vocoder"]["reciprocals of the decoder's frequencies"]) == 36
    assert all(
        name.startswith("constants.number.") for name in left_out["adapter"]["numbers of a program, such as factors"]
    )
    assert left_out["adapter"].keys() == {
        "numbers of a program, such as factors",
        "entries of the checkpoint beside the model",
    }
    assert left_out["adapter"]["entries of the checkpoint beside the model"] == []


def test_check_says_that_it_runs_the_code_and_records_the_difference(
    source: Sidon, miipher2: Command, tmp_path: Path
) -> None:
    result = miipher2(*words(source, tmp_path / "out"), "--check")
    assert result.code == 0, result.error
    assert result.out.startswith(
        f"--check runs the code in {source.encoder}/beside.pt and {source.encoder}/decoder.pt\n"
    )
    described = json.loads((tmp_path / "out/imported.json").read_text())
    assert 0 < described["adapter"]["checked"] < 1e-5
    assert 0 < described["vocoder"]["checked"] < 1e-5
    assert miipher2(*words(source, tmp_path / "other")).code == 0
    assert json.loads((tmp_path / "other/imported.json").read_text())["adapter"]["checked"] is None
    assert "RUNS THE CODE IN THAT FILE" in " ".join(miipher2("import", "--help").out.split())


def test_check_needs_a_program(source: Sidon, miipher2: Command, tmp_path: Path) -> None:
    path = source.save(tmp_path / "sidon.ckpt")
    result = miipher2("import", tmp_path / "out", "--adapter", path, "--check")
    assert "sidon.ckpt is none" in result.error
    assert not (tmp_path / "out").exists()


def test_without_the_flag_nothing_is_run(
    source: Sidon, miipher2: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a program was loaded")

    monkeypatch.setattr(torch.jit, "load", refuse)
    assert miipher2(*words(source, tmp_path / "out")).code == 0
    with pytest.raises(AssertionError, match="a program was loaded"):
        miipher2(*words(source, tmp_path / "other"), "--check")
    assert not (tmp_path / "other").exists()


def rewrite(path: Path, target: Path, change: Callable[[str], str]) -> Path:
    """Write a program with other code."""
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(target, "w") as after:
        for info in before.infolist():
            data = before.read(info)
            if info.filename.endswith(".py"):
                data = change(data.decode()).encode()
            after.writestr(info.filename, data)
    return target


def swap(first: str, second: str) -> Callable[[str], str]:
    return lambda code: code.replace(first, "HELD").replace(second, first).replace("HELD", second)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("decoder", lambda code: code.replace("torch.tanh(", "torch.sigmoid(")),
        ("beside", lambda code: code.replace("torch.silu", "torch.relu", 1)),
        ("beside", lambda code: code.replace('"last_hidden_state"', '"hidden"')),
        ("beside", lambda code: code.replace("torch.silu", "torch.no_such_operation", 1)),
    ],
)
def test_check_refuses_another_output_and_writes_nothing(
    source: Sidon, miipher2: Command, tmp_path: Path, part: str, change: Callable[[str], str]
) -> None:
    """What the order of operations does not show, running shows."""
    path = rewrite(source.encoder / f"{part}.pt", tmp_path / "changed.pt", change)
    files = ["--vocoder", path, "--layer", 2] if part == "decoder" else ["--adapter", path]
    arguments = ["import", tmp_path / "out", *files, "--encoder", source.encoder]
    result = miipher2(*arguments, "--check")
    assert (result.code, result.error.count("\n")) == (2, 1)
    assert re.search(r"changed\.pt: --check: its program", result.error), result.error
    assert [each.name for each in tmp_path.iterdir()] == ["changed.pt"]


def test_weights_follow_the_code_and_not_the_numbers_of_constants(
    source: Sidon, miipher2: Command, tmp_path: Path
) -> None:
    path = rewrite(source.encoder / "decoder.pt", tmp_path / "changed.pt", swap("CONSTANTS.c6,", "CONSTANTS.c7,"))
    before, after = (read_program(each).uses for each in (source.encoder / "decoder.pt", path))
    assert [(use.constants, other.constants) for use, other in zip(before, after, strict=True) if use != other] == [
        ((6,), (7,))  # a frequency, whose reciprocal is the constant after it
    ]
    words = ["import", tmp_path / "out", "--vocoder", path, "--layer", 2, "--encoder", source.encoder, "--check"]
    result = miipher2(*words)
    assert result.code == 0, result.error


def test_a_program_for_a_gpu_is_checked_on_one(
    source: Sidon, miipher2: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = rewrite(source.encoder / "beside.pt", tmp_path / "cuda.pt", lambda code: code.replace('"cpu"', '"cuda:0"'))
    arguments = ["import", tmp_path / "out", "--adapter", path, "--encoder", source.encoder]
    assert "its code is for a GPU, and there is none" in miipher2(*arguments, "--check").error
    assert miipher2(*arguments).code == 0


REFUSED: dict[str, tuple[str, Callable[[str], str], str]] = {
    "another order": (
        "beside",
        swap("torch.layer_norm", "torch.linear"),
        "operation 0 with weights is a linear; should be a norm",
    ),
    "an end too soon": (
        "decoder",
        lambda code: code[: code.index("CONSTANTS.c40")].rpartition("\n")[0],
        "is its end; should be a",
    ),
    "a constant that is not there": (
        "beside",
        lambda code: code.replace("CONSTANTS.c3)", "CONSTANTS.c999)"),
        "names the constant c999",
    ),
    "a constant without a number": (
        "beside",
        lambda code: code.replace("CONSTANTS.c3)", "CONSTANTS.cx)"),
        "names the constant cx",
    ),
    "weights that are computed": (
        "beside",
        lambda code: code.replace("CONSTANTS.c2,", "input,", 1),
        "projection has 1 constants",
    ),
    "a constant that nothing uses": (
        "decoder",
        lambda code: code.replace("CONSTANTS.c0,", "CONSTANTS.c4,", 1),
        r"constants\.0 in state_dict is not known|is \(",
    ),
    "two functions": ("beside", lambda code: code + "\n  def other(self):\n    pass\n", "a program of 2 functions"),
    "no function": ("beside", lambda code: "x = 1\n", "a program of 0 functions"),
    "no Python": ("beside", lambda code: code + "(((", "its code cannot be read"),
    "a deep nest": ("beside", lambda code: code + "    y = " + "-" * 100_000 + "1\n", "its code cannot be read"),
    "many brackets": (
        "beside",
        lambda code: code + "    y = " + "(" * 5_000 + ")" * 5_000 + "\n",
        "its code cannot be read",
    ),
    "code without end": (
        "beside",
        lambda code: code + "#" * (MAX_CODE_BYTES + 1),
        "its code is .* bytes; should be at most",
    ),
    "zeros in the code": ("beside", lambda code: code + "\0", "its code cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    source: Sidon, miipher2: Command, tmp_path: Path, name: str
) -> None:
    part, change, match = REFUSED[name]
    path = rewrite(source.encoder / f"{part}.pt", tmp_path / "file.pt", change)
    files = ["--vocoder", path, "--layer", 2] if part == "decoder" else ["--adapter", path]
    start = time.monotonic()
    result = miipher2("import", tmp_path / "out", *files, "--encoder", source.encoder)
    assert time.monotonic() - start < 10
    assert (result.code, result.out, result.error.count("\n")) == (2, "", 1), result.error
    assert re.search(match, result.error), result.error
    assert [each.name for each in tmp_path.iterdir()] == ["file.pt"]


def test_other_programs_are_named(source: Sidon, miipher2: Command, tmp_path: Path) -> None:
    module = torch.jit.script(torch.nn.Linear(2, 2))
    module.save(tmp_path / "parameters.pt")
    torch.jit.freeze(module.eval()).save(tmp_path / "linear.pt")
    for file, match in {
        "parameters.pt": "should be a frozen program",
        "linear.pt": "a TorchScript program that is neither Sidon's encoder nor its decoder",
    }.items():
        for option in ("--adapter", "--vocoder"):
            result = miipher2("import", tmp_path / "out", option, tmp_path / file, "--encoder", source.encoder)
            assert match in result.error
    swapped = ["--adapter", source.encoder / "decoder.pt", "--vocoder", source.encoder / "beside.pt"]
    result = miipher2("import", tmp_path / "out", *swapped, "--encoder", source.encoder)
    assert "should hold adapters" in result.error
    assert not (tmp_path / "out").exists()


def test_code_in_a_program_is_not_run_by_reading(source: Sidon, miipher2: Command, tmp_path: Path) -> None:
    target = tmp_path / "made"
    harm = f"__import__('os').mkdir({str(target)!r})"
    codes: list[str] = []

    def change(code: str) -> str:
        codes.append(f"{harm}\n" + code.replace("input_features: Tensor", f"input_features: Tensor={harm}"))
        return codes[0]

    path = rewrite(source.encoder / "beside.pt", tmp_path / "file.pt", change)
    result = miipher2("import", tmp_path / "out", "--adapter", path, "--encoder", source.encoder)
    assert (result.code, target.exists()) == (0, False), result.error
    with suppress(NameError):  # the harm is real
        exec(codes[0])
    assert target.exists()


def test_a_program_cut_off_anywhere_is_refused(source: Sidon, tmp_path: Path) -> None:
    data, path = (source.encoder / "beside.pt").read_bytes(), tmp_path / "cut.pt"
    for length in range(0, len(data), len(data) // 50):
        path.write_bytes(data[:length])
        with pytest.raises(SourceError, match=r"cut\.pt: "):
            read_program(path)


def test_a_flipped_bit_is_an_error_that_names_the_file_or_harmless(source: Sidon, tmp_path: Path) -> None:
    data, path, refused = bytearray((source.encoder / "beside.pt").read_bytes()), tmp_path / "flipped.pt", 0
    for place in range(0, len(data), 499):
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        data[place] ^= 1 << place % 8
        try:
            program = read_program(path)
            for constant in program.constants:
                constant.read()
        except SourceError as error:
            refused += str(path) in str(error)
    assert refused > 20
