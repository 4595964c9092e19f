"""No command writes into the repository's own folders, over its input, or over what is the user's."""

from pathlib import Path

import pytest
from tiny_checkpoints import Command

from miipher2.config.paths import ROOT


def test_params_names_the_key_and_writes_nothing(miipher2: Command) -> None:
    before = (ROOT / "params.yaml").read_bytes()
    result = miipher2("params", "train_adapter.name=")
    assert result.code == 1
    assert result.error.startswith("ERROR: train_adapter.name='': should be")
    assert (ROOT / "params.yaml").read_bytes() == before


@pytest.mark.parametrize(
    "out", ["", ".", "..", "src", "src/x", "docs/x", ".git", "data/embedded/x", "exp", "exp/results"]
)
@pytest.mark.parametrize("command", ["restore", "degrade", "evaluate", "export", "import"])
def test_no_command_writes_into_what_the_repository_consists_of(
    out: str, command: str, tmp_path: Path, miipher2: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    recordings = ROOT / "data/embedded/en"
    monkeypatch.chdir(ROOT)
    words = {
        "restore": (recordings, out),
        "degrade": (recordings, out, "--config", "mini"),
        "evaluate": ("-", recordings, recordings, "--out", out),
        "export": (out,),
        "import": (out, "--adapter", ROOT / "README.md"),
    }[command]
    before = sorted(path.name for path in (ROOT / out).iterdir()) if (ROOT / out).is_dir() else None
    result = miipher2(command, *words)
    assert result.code == 2
    assert result.error.count("\n") == 1
    assert (sorted(path.name for path in (ROOT / out).iterdir()) if (ROOT / out).is_dir() else None) == before


def test_a_list_does_not_replace_what_it_names(tmp_path: Path, miipher2: Command) -> None:
    recording = next((ROOT / "data/embedded/en").glob("*.flac"))
    (tmp_path / "in").mkdir()
    mine = tmp_path / "in/a.flac"
    mine.write_bytes(recording.read_bytes())
    (tmp_path / "list.txt").write_text("in/a.flac\n")
    result = miipher2("restore", tmp_path / "list.txt", tmp_path / "in")
    assert result.code == 2
    assert "would be replaced" in result.error
    assert mine.read_bytes() == recording.read_bytes()
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.flac"]
