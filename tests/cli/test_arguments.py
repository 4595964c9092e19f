"""No option takes a value that no type checks: not a number, infinite, out of range, empty, or a path for a name."""

from pathlib import Path

import pytest
from tiny_checkpoints import Command

from miipher2.config.paths import ROOT

RECORDING = next((ROOT / "data/embedded/en").glob("*.flac"))
RESTORE, EVALUATE = ("restore", RECORDING, "out.wav"), ("evaluate", "-", RECORDING, RECORDING)
DEGRADE = ("degrade", RECORDING, "out.wav", "--config", "mini")
SECONDS = ("--chunk-seconds", "--window-seconds", "--overlap-seconds")


@pytest.mark.parametrize(
    ("words", "option", "values"),
    [
        *[(RESTORE, option, ["nan", "inf", "-inf", "-1", "0", "", "1e300", "x"]) for option in SECONDS],
        *[(RESTORE, option, ["nan", "0", "-1", "", "1.5"]) for option in ("--batch-size", "--workers", "--actors")],
        (RESTORE, "--device", ["", "gpu", "meta", "cuda:", "cuda:x", "cpu:1"]),
        (RESTORE, "--suffix", ["/x", "../x", "a/b", "\n", "\0"]),
        (RESTORE, "--shard", ["", "0/1", "2/1", "1/0", "-1/2", "nan"]),
        (RESTORE, "--ray", [""]),
        *[(RESTORE, option, [""]) for option in ("--bundle", "--adapter", "--vocoder", "--format", "--precision")],
        (DEGRADE, "--seed", ["nan", "", "1.5", "9" * 30]),
        *[(DEGRADE, option, [""]) for option in ("--config", "--prepared", "--split")],
        (EVALUATE, "--rate", ["0", "-1", "nan", "", "999", "16000.5"]),
        (EVALUATE, "--max-delay", ["nan", "inf", "-1", "", "1e9"]),
        (EVALUATE, "--seed", ["-1", "nan", ""]),
        (EVALUATE, "--metrics", ["", ","]),
        (EVALUATE, "--out", [""]),
        (EVALUATE, "--system", ["", "=", "a=", "a/b=x", "degraded=x"]),
        (("demo",), "--port", ["0", "-1", "nan", "", "65536"]),
        (("demo",), "--host", [""]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_value_is_refused_in_one_line_that_names_the_option(
    words: tuple[object, ...], option: str, values: list[str], miipher2: Command,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for value in values:
        result = miipher2(*words, f"{option}={value}")
        assert result.code == 2, value
        assert result.error.count("\n") == 1
        assert option.removeprefix("--") in result.error.replace("_", "-").replace("metric ", "metrics ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        *(("restore", "", "out.wav"), ("restore", RECORDING, ""), ("export", ""), ("checkpoint", "command", "")),
        *(("degrade", "", "o.wav", "--config", "mini"), ("degrade", RECORDING, "", "--config", "mini")),
        *(("evaluate", "", RECORDING, RECORDING), ("evaluate", "-", "", RECORDING), ("evaluate", "-", RECORDING, "")),
        ("checkpoint", "ls", ""),
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    words: tuple[object, ...], miipher2: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = miipher2(*words)
    assert result.code == 2
    assert "is empty" in result.error
    assert list(tmp_path.iterdir()) == []
