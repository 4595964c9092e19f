"""A bad file is named and counted, and stops the run or is replaced by a fixed rule."""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from data_configs import NO_DEGRADATION, data_config, prepare_folder
from synthetic_voices import synthetic_voice

from miipher2.audio.decode import AudioError
from miipher2.audio.io import write_audio
from miipher2.data.dataloader import make_dataloader
from miipher2.data.dataset import SpeechDataset
from miipher2.data.prepared import PreparedData


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    """Return a copy of the corpus in which files went bad after preparation."""
    shutil.copytree(root, tmp_path / "copy")
    manifest = PreparedData.read(tmp_path / "copy", "data/prepared").speech
    paths = [tmp_path / "copy" / manifest.row(index).path for index in (0, 3, 7)]
    paths[0].unlink()
    paths[1].write_bytes(b"no sound")
    write_audio(paths[2], synthetic_voice(0.5, seed=99), 16000)
    return tmp_path / "copy"


def make(root: Path, on_bad_file: str = "error") -> SpeechDataset:
    prepared = PreparedData.read(root, "data/prepared")
    data, pools = data_config(0.5, on_bad_file=on_bad_file), prepared.pools(root, "train")
    settings: dict[str, Any] = {"root": root, "seed": 5, "batch_size": 4, "sample_rate_hz": 24000}
    return SpeechDataset(prepared.speech, pools, data, NO_DEGRADATION, **settings)


def test_bad_files_stop_the_run_by_default(copy: Path) -> None:
    with pytest.raises(AudioError, match=r"does not exist|cannot be read|not the manifest's"):
        list(make_dataloader(make(copy), start_step=0, stop_step=3))


def test_a_skipped_file_is_replaced_by_a_rule_and_changes_no_other_example(root: Path, copy: Path) -> None:
    whole, torn = make(root), make(copy, on_bad_file="skip")
    changed = 0
    for number in range(24):
        before, after = whole[divmod(number, 4)], torn[divmod(number, 4)]
        if int(before["utterance"]) in (0, 3, 7):
            changed += 1
            assert int(after["utterance"]) not in (0, 3, 7)
        else:
            assert all(torch.equal(before[key], after[key]) for key in before)
    assert changed == 6  # three in each of two epochs


def test_skipping_does_not_depend_on_the_first_step_or_the_workers(copy: Path) -> None:
    def batches(start: int, workers: int) -> list[dict]:
        examples = make(copy, on_bad_file="skip")
        return list(make_dataloader(examples, start_step=start, stop_step=5, num_workers=workers))

    first = batches(0, 0)
    for start, workers in ((0, 2), (3, 0), (3, 1)):
        for one, other in zip(batches(start, workers), first[start:], strict=True):
            assert all(torch.equal(one[key], other[key]) for key in one)


def test_every_skipped_file_is_logged_once_and_counted(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    examples = make(copy, on_bad_file="skip")
    with caplog.at_level(logging.WARNING):
        for number in range(36):
            examples[divmod(number, 4)]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert messages[-1].startswith("Skipped a bad file (number 3 in this process): ")
    for reason in ("does not exist", "cannot be read", "not the manifest's"):
        assert sum(reason in message for message in messages) == 1


def test_a_corpus_without_a_good_file_is_an_error(root: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shutil.copytree(root / "data/prepared", tmp_path / "data/prepared")
    with pytest.raises(AudioError, match="none of the 12 utterances can be read"):
        make(tmp_path, on_bad_file="skip")[(0, 0)]


def test_preparation_lists_all_bad_files_at_once_and_writes_nothing(tmp_path: Path) -> None:
    source = tmp_path / "speech"
    source.mkdir()
    for index in range(4):
        write_audio(source / f"{index}.wav", synthetic_voice(0.3, seed=index), 16000)
    soundfile.write(source / "empty.wav", np.zeros(0, np.float32), 16000)
    soundfile.write(source / "nan.wav", np.full(9, np.nan, np.float32), 16000, "FLOAT")
    with pytest.raises(ValueError, match=r"2 files cannot be used;(.|\n)*empty\.wav: .*zero(.|\n)*nan\.wav: .*finite"):
        prepare_folder(source, tmp_path / "prepared", tmp_path)
    assert not (tmp_path / "prepared").exists()
    with pytest.raises(FileNotFoundError, match="wind: does not exist"):
        prepare_folder(source, tmp_path / "prepared", tmp_path, noise_folder="wind")
    report = prepare_folder(source, tmp_path / "prepared", tmp_path, on_bad_file="skip")
    assert report["unreadable_count"] == 2
    assert report["utterances"] == 4
