"""Examples of recorded pairs: the same crop of both sides, and a function of (seed, step, slot) as all others are."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_configs import data_config, degradation_config
from recorded_pairs import prepare_pairs, write_pairs

from miipher2.audio.decode import AudioError
from miipher2.audio.io import read_audio, write_audio
from miipher2.data import crop_reader
from miipher2.data.crop_reader import CropReader
from miipher2.data.dataloader import make_dataloader
from miipher2.data.dataset import SpeechDataset
from miipher2.data.eval_pairs import read_pairs
from miipher2.data.prepared import PreparedData

HUM = degradation_config({"hum": {"probability": 1.0, "snr_db": [5, 5]}})
NOISE = degradation_config({"noise": {"probability": 1.0, "snr_db": [5, 20]}})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a root with pairs in pairs/, prepared in prepared/."""
    root = tmp_path_factory.mktemp("recorded")
    write_pairs(root / "pairs")
    prepare_pairs(root / "pairs", root / "prepared", root, noise_files=0, rooms=0)
    return root


def make(root: Path, split: str = "train", **changes: Any) -> SpeechDataset:
    data = PreparedData.read(root, "prepared")
    degradation = changes.pop("degradation", NOISE)
    settings: dict[str, Any] = {"root": root, "seed": 1, "batch_size": 4, "sample_rate_hz": 24_000, "cache_mb": 64}
    for key in [key for key in changes if key in settings]:
        settings[key] = changes.pop(key)
    config = data_config(0.5, **changes)
    return SpeechDataset(data.speech.select(split), data.pools(root, "train"), config, degradation, **settings)


def test_both_sides_are_the_same_crop_with_the_same_gain_and_no_pool_is_needed(root: Path) -> None:
    examples = make(root)
    for number in range(24):
        example = examples[divmod(number, 4)]
        clean, degraded = example["clean"].numpy(), example["degraded"].numpy()
        assert clean.shape == degraded.shape == (8000,)
        assert example["target"].shape == (12_000,)
        # Recorded with a gain of -0.3; a sample earlier or later correlates less.
        products = [float(degraded[1:-1] @ clean[1 + shift : len(clean) - 1 + shift]) for shift in (-1, 0, 1)]
        assert int(np.argmin(products)) == 1
        assert products[1] / float(clean[1:-1] @ clean[1:-1]) == pytest.approx(-0.3, abs=0.01)


def test_a_recording_louder_than_full_scale_is_turned_down_as_a_whole(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs", 6)
    for path in (tmp_path / "pairs/degraded").rglob("*.wav"):
        wave, rate_hz = read_audio(path)
        write_audio(path, 10 * wave, rate_hz)
    prepare_pairs(tmp_path / "pairs", tmp_path / "prepared", tmp_path)
    example = make(tmp_path, level_db=(0.0, 0.0))[0, 0]  # as loud as the clean peak allows
    assert float(example["degraded"].abs().max()) == pytest.approx(1.0)
    assert np.corrcoef(example["clean"], example["degraded"])[0, 1] < -0.9


def test_the_clean_side_is_that_of_simulated_pairs(root: Path) -> None:
    recorded, unread, simulated = make(root), make(root, degradation=None), make(root, degradation=HUM)
    for slot in range(4):
        for key in ("clean", "target", "valid_frames", "segment_start", "utterance"):
            assert torch.equal(recorded[1, slot][key], unread[1, slot][key])
        assert torch.equal(unread[1, slot]["degraded"], unread[1, slot]["clean"])
        assert torch.equal(simulated[1, slot]["degraded"], recorded[1, slot]["degraded"])  # not asked for


def test_a_degradation_is_added_only_where_the_configuration_asks(root: Path) -> None:
    recorded, further = make(root), make(root, degradation=HUM, degrade_recorded=True)
    for slot in range(4):
        one, other = recorded[2, slot], further[2, slot]
        assert torch.equal(one["clean"], other["clean"])
        hum = other["degraded"] - one["degraded"]
        assert 0.2 < float(hum.square().mean().sqrt() / one["degraded"].square().mean().sqrt()) < 0.8
    with pytest.raises(ValueError, match=r"degradation\.noise: the pool of noises is empty"):
        make(root, degrade_recorded=True)


@pytest.mark.parametrize(("start", "workers"), [(0, 2), (3, 0), (3, 1)])
def test_batches_of_pairs_depend_on_the_step_only(root: Path, start: int, workers: int) -> None:
    changes: dict[str, Any] = {"degradation": HUM, "degrade_recorded": True}
    whole, again = (
        list(
            make_dataloader(make(root, cache_mb=cache_mb, **changes), start_step=begin, stop_step=6, num_workers=count)
        )
        for begin, count, cache_mb in ((0, 0, 64), (start, workers, 0.01))
    )
    for one, other in zip(whole[start:], again, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_crop_of_a_part_equals_the_crop_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path / "pairs", 6, seconds=4.3)
    prepare_pairs(tmp_path / "pairs", tmp_path / "prepared", tmp_path)
    manifest = PreparedData.read(tmp_path, "prepared").speech
    part, whole = (CropReader(manifest, tmp_path, 24_000, cache_mb=64, with_degraded=True) for _ in range(2))
    for utterance in range(6):
        for position in (0.0, 0.31, 0.99):
            monkeypatch.setattr(crop_reader, "WHOLE_SECONDS", 1)
            one = part.read(utterance, position, 40)
            monkeypatch.undo()
            other = whole.read(utterance, position, 40)
            assert one.degraded is not None
            assert other.degraded is not None
            for name in ("clean", "target", "degraded"):
                np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-6)
    assert not part._cache._values


@pytest.mark.parametrize("side", ["clean", "degraded"])
def test_a_changed_or_missing_recording_is_an_error_or_skipped(root: Path, tmp_path: Path, side: str) -> None:
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    data = PreparedData.read(tmp_path, "prepared").speech.select("train")
    row = data.row(0)
    path = tmp_path / (row.path if side == "clean" else row.degraded_path)
    wave, rate_hz = read_audio(path)
    write_audio(path, 0.99 * wave, rate_hz)
    with pytest.raises(AudioError, match=rf"{side}/.*: its content is not the manifest's"):
        [make(tmp_path)[divmod(number, 4)] for number in range(12)]
    path.unlink()
    skipping = make(tmp_path, on_bad_file="skip")
    assert 0 not in {int(skipping[divmod(number, 4)]["utterance"]) for number in range(12)}
    without = make(tmp_path, degradation=None, on_bad_file="skip")  # does not read the degraded side
    used = {int(without[divmod(number, 4)]["utterance"]) for number in range(12)}
    assert (0 in used) == (side == "degraded")


def test_pairs_to_evaluate_are_the_recorded_ones(root: Path) -> None:
    data = PreparedData.read(root, "prepared")
    held_out = data.speech.select("test")
    pairs = list(
        read_pairs(held_out, data.pools(root, "test"), NOISE, root=root, seed=0, count=9, sample_rate_hz=24_000)
    )
    assert len(pairs) == len(held_out) > 0
    for pair in pairs:
        assert len(pair.clean) == len(pair.degraded)
        assert abs(len(pair.target) - 1.5 * len(pair.clean)) <= 2
        assert np.corrcoef(pair.clean, pair.degraded)[0, 1] < -0.9
        labels = pair.labels([10.0])
        assert (labels["degradation"], labels["snr"]) == (("recorded",), ("unknown",))
        assert labels["speaker"] == ("a",)


def test_recordings_to_degrade_have_to_be_there(root: Path, tmp_path: Path) -> None:
    from data_configs import prepare_folder

    prepare_folder(root / "pairs/clean", tmp_path / "prepared", tmp_path)
    with pytest.raises(ValueError, match=r"data\.degrade_recorded=true: the prepared data has no recorded pairs"):
        make(tmp_path, degrade_recorded=True)
