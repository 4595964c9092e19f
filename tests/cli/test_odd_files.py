"""Every command finds the same files, says what it passes over, names what it refuses, and takes any name."""

import csv
import os
import shutil
from pathlib import Path

import odd_files
import pytest
from data_configs import prepare_folder
from speech_like import speech_like
from tiny_checkpoints import Command
from tiny_weights import publish_all

from miipher2.audio.io import read_info, write_audio
from miipher2.data.prepared import PreparedData

LATIN_1 = os.fsdecode(b"caf\xe9.wav")
LONG = "語" * 66 + ".wav"  # 202 bytes of UTF-8, of at most 255
PASSED_OVER = "passed over 6: 1 .csv, 1 .json, 3 hidden, 1 links to a folder that is listed already"


@pytest.fixture(scope="module")
def weights_args(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    root = tmp_path_factory.mktemp("weights")
    publish_all(root, "hubert", absolute=True)
    return ["--adapter", root / "adapter", "--vocoder", root / "vocoder"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a folder with a link to itself, a linked folder, hidden files, and files that are no sound."""
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    for number, path in enumerate((folder / "a.wav", folder / LONG, elsewhere / "b.flac")):
        path.parent.mkdir(exist_ok=True)
        write_audio(path, speech_like(seed=number), 16_000)
    for name in ("notes.csv", "notes.json", "._a.wav", ".hidden.wav", ".DS_Store"):
        (folder / name).write_bytes(b"no sound")
    (folder / "itself").symlink_to(folder)
    (folder / "linked").symlink_to(elsewhere)
    return folder


def clipping(folder: Path) -> Path:
    """Return a degradation that needs no prepared data."""
    (folder / "clipping.yaml").write_text("clipping: {probability: 1.0, threshold: [0.25, 0.25]}\n")
    return folder / "clipping.yaml"


def output_names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.[wf]*") if path.is_file()}


def test_every_command_finds_the_same_files_and_says_what_it_passes_over(
    tree: Path, tmp_path: Path, miipher2: Command, weights_args: list[object]
) -> None:
    expected = {"a.wav", LONG, "linked/b.flac"}
    for name, options in (("restore", weights_args), ("degrade", ["--config", clipping(tmp_path)])):
        result = miipher2(name, tree, tmp_path / name, *options)
        assert (result.code, result.error.count(f"{tree}: {PASSED_OVER}\n")) == (0, 1), result.error
        assert output_names(tmp_path / name) == expected
    result = miipher2("evaluate", tree, tree, tree, "--metrics", "log_mel", "--out", tmp_path / "out")
    assert result.error.count(f"{tree}: {PASSED_OVER}\n") == 3
    with (tmp_path / "out/evaluate.csv").open(newline="") as file:
        assert {row["name"] for row in csv.DictReader(file)} == {"a", LONG[:-4], "linked/b"}
    report = prepare_folder(tree, tmp_path / "prepared", tmp_path, noise_files=6, rooms=6)
    assert report["utterances"] == 3
    assert sum(report["passed_over"].values()) == 6


def test_a_file_that_is_cut_off_fails_by_name_in_every_command_and_whole_ones_do_not(
    tmp_path: Path, miipher2: Command, weights_args: list[object]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    lengths, broken = odd_files.write_whole(tmp_path), odd_files.write_broken(tmp_path)
    whole = ["joined.mp3", "chained.opus", "unknown_length.flac", "size_ffffffff.wav", "a.m4a"]
    cut = ["cut.wav", "cut.mp3", "cut.ogg", "joined.flac"]
    assert set(whole) <= set(lengths)
    assert set(cut) <= set(broken)
    for name in whole + cut:
        shutil.copy(tmp_path / name, folder / f"{name.replace('.', '_')}.{name.split('.')[1]}")
    for command, options in (("restore", weights_args), ("degrade", ["--config", clipping(tmp_path)])):
        out = tmp_path / command
        result = miipher2(command, folder, out, *options)
        assert result.code == 1, result.error
        failed = [line for line in result.error.splitlines() if line.startswith("FAILED")]
        assert len(failed) == len(cut), result.error
        outputs = {path.name.split(".")[0]: read_info(path).seconds for path in out.glob("*.[wf]*")}
        assert set(outputs) == {name.replace(".", "_") for name in whole}
        for name in whole:
            assert outputs[name.replace(".", "_")] >= lengths[name] - 0.01, name
    result = miipher2("evaluate", folder, folder, folder, "--metrics", "log_mel", "--out", tmp_path / "out")
    assert result.code == 1
    assert sum("cut off" in line or "joined, the second" in line for line in result.error.splitlines()) == len(cut)
    with pytest.raises(ValueError, match=r"4 files cannot be used"):
        prepare_folder(folder, tmp_path / "prepared", tmp_path)
    report = prepare_folder(folder, tmp_path / "prepared", tmp_path, on_bad_file="skip", noise_files=6, rooms=6)
    assert {Path(entry["path"]).name for entry in report["unreadable"]} == {
        f"{name.replace('.', '_')}.{name.split('.')[1]}" for name in cut
    }
    rows = PreparedData.read(tmp_path, "prepared").speech
    for index in range(len(rows)):
        row = rows.row(index)
        name = Path(row.path).name.split(".")[0]
        assert row.seconds >= next(lengths[each] for each in whole if each.replace(".", "_") == name) - 0.01


def test_a_name_that_is_not_utf8_is_restored_degraded_evaluated_and_refused_as_training_data(
    tmp_path: Path, miipher2: Command, weights_args: list[object]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_audio(folder / "a.wav", speech_like(), 16_000)
    (folder / "a.wav").rename(folder / LATIN_1)
    for number in range(3):
        write_audio(folder / f"plain{number}.wav", speech_like(seed=1 + number), 16_000)
    assert miipher2("restore", folder, tmp_path / "restored", *weights_args).code == 0
    result = miipher2("degrade", folder, tmp_path / "degraded", "--config", clipping(tmp_path))
    assert (result.code, (tmp_path / "degraded" / LATIN_1).is_file()) == (0, True), result.error
    assert r"caf\xe9.wav" in (tmp_path / "degraded/degradations.csv").read_text()
    folders = (folder, tmp_path / "degraded", tmp_path / "restored")
    result = miipher2("evaluate", *folders, "--metrics", "log_mel", "--rate", 16_000, "--out", tmp_path / "out")
    assert result.code == 0, result.error
    assert r"caf\xe9," in (tmp_path / "out/evaluate.csv").read_text()
    with pytest.raises(ValueError, match=r"caf\\xe9\.wav: its name is not UTF-8; rename it"):
        prepare_folder(folder, tmp_path / "prepared", tmp_path)
    report = prepare_folder(folder, tmp_path / "prepared", tmp_path, on_bad_file="skip", noise_files=6, rooms=6)
    assert report["utterances"] == 3


def test_a_list_may_start_with_a_byte_order_mark_repeat_lines_and_hold_any_name(
    tmp_path: Path, miipher2: Command, weights_args: list[object]
) -> None:
    write_audio(tmp_path / "a.wav", speech_like(), 16_000)
    shutil.copy(tmp_path / "a.wav", tmp_path / LATIN_1)
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.wav\r\ncaf\xe9.wav\r\na.wav\r\n")
    result = miipher2("restore", tmp_path / "list.txt", tmp_path / "out", *weights_args)
    assert result.code == 0, result.error
    assert output_names(tmp_path / "out") == {"a.wav", LATIN_1}


def test_the_list_of_held_out_files_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / "in").mkdir(exist_ok=True)
        write_audio(tmp_path / f"in/{number}.wav", speech_like(seed=number), 16_000)
    (tmp_path / "held_out.txt").write_bytes(b"\xef\xbb\xbf1.wav\n1.wav\n")
    report = prepare_folder(
        tmp_path / "in", tmp_path / "prepared", tmp_path, held_out="held_out.txt", noise_files=6, rooms=6
    )
    assert report["splits"]["test"]["utterances"] == 1
