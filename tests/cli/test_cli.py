"""The command line has helpful help, reports mistakes in one line, and starts without PyTorch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_checkpoints import Command, make_checkpoint, write

COMMANDS = [
    (),
    ("checkpoint",),
    *(("checkpoint", verb) for verb in ("ls", "show", "command", "verify", "diff", "replay")),
    ("doctor",),
    ("export",),
    ("import",),
    ("restore",),
    ("degrade",),
    ("params",),
    ("demo",),
    ("evaluate",),
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "miipher2")
def test_every_help_has_an_example_and_fits_the_terminal(words: tuple[str, ...], miipher2: Command) -> None:
    result = miipher2(*words, "--help")
    assert result.code == 0
    example = result.out.partition("example")[2]
    assert " ".join(["miipher2", *words]) in example
    assert max(map(len, result.out.splitlines())) <= 125


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "COMMAND"),
        (("checkpoint",), "VERB"),
        (("chekpoint", "ls"), "chekpoint"),
        (("checkpoint", "ls", "--jsn", "x"), "--jsn"),
        (("checkpoint", "ls", "/nowhere"), "/nowhere"),
        (("checkpoint", "show", "/nowhere/checkpoint_1.pt"), "/nowhere/checkpoint_1.pt"),
        (("checkpoint", "command", "/nowhere/checkpoint_1.pt"), "/nowhere/checkpoint_1.pt"),
        (("checkpoint", "verify", "/nowhere"), "/nowhere"),
        (("checkpoint", "diff", "/nowhere/a.pt", "/nowhere/b.pt"), "/nowhere/a.pt"),
        (("checkpoint", "replay", "/nowhere/a.pt", "/nowhere/b.pt"), "/nowhere/a.pt"),
        (("restore", "/nowhere/a.wav", "b.wav"), "/nowhere/a.wav"),
        (("export", "/tmp"), "/tmp"),
        (("import", "/tmp", "--adapter", "/nowhere/a.pt"), "/tmp"),
        (("import", "new", "--adapter", "/nowhere/a.pt"), "/nowhere/a.pt: no such file"),
        (("import", "new"), "--adapter"),
        (("evaluate", "-", "/nowhere/a.wav", "b.wav"), "/nowhere/a.wav"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(words: tuple[str, ...], message: str, miipher2: Command) -> None:
    result = miipher2(*words)
    assert result.code == 2
    assert result.out == ""
    assert result.error.startswith("ERROR: ")
    assert result.error.count("\n") == 1
    assert message in result.error


def test_help_listing_and_showing_do_not_import_torch(tmp_path: Path) -> None:
    write(tmp_path, make_checkpoint(3))
    lines = [
        "import sys",
        "from miipher2.cli.main import main",
        f"assert main(['checkpoint', 'ls', '{tmp_path}']) == 0",
        f"assert main(['checkpoint', 'show', '{tmp_path}']) == 0",
        "try: main(['doctor', '--help'])",
        "except SystemExit: pass",
        "assert 'torch' not in sys.modules",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_closed_pipe_is_not_an_error(tmp_path: Path) -> None:
    write(tmp_path, make_checkpoint(1))
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "miipher2.cli.main", "checkpoint", "ls", str(tmp_path)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
