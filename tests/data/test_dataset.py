"""An example is a function of (seed, step, slot), and its crop, level, degradation and target belong together."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_configs import NO_DEGRADATION, data_config, degradation_config
from scanning import scan_folder

from miipher2.audio.decode import AudioError
from miipher2.audio.io import read_audio, write_audio
from miipher2.audio.levels import active_level_db, frame_energies
from miipher2.audio.resample import resample
from miipher2.config.schema_data import DataConfig
from miipher2.data.dataset import SpeechDataset
from miipher2.data.manifest import Manifest
from miipher2.data.pools import Pools

DEGRADATION = degradation_config({"room": {"probability": 0.5}, "noise": {"probability": 1.0, "snr_db": [5, 20]}})


def make(root: Path, **changes: Any) -> SpeechDataset:
    prepared = root / "data/prepared"
    pools = Pools(Manifest.read(prepared / "noise.parquet"), Manifest.read(prepared / "rooms.parquet"), root)
    manifest = changes.pop("manifest", Manifest.read(prepared / "manifest.parquet"))
    degradation = changes.pop("degradation", DEGRADATION)
    crop: dict[str, Any] = {"crop_seconds": 1.0, "level_db": (-35.0, -25.0), "segment_frames": 10}
    data = data_config(**{key: changes.pop(key, value) for key, value in crop.items()})
    settings: dict[str, Any] = {"root": root, "seed": 5, "batch_size": 4, "sample_rate_hz": 16000, **changes}
    return SpeechDataset(manifest, pools, data, degradation, **settings)


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_an_example_is_the_same_in_any_order_and_any_instance(root: Path) -> None:
    one, other = make(root), make(root, cache_mb=0.01)
    indices = [(step, slot) for step in range(8) for slot in range(4)]
    first = {index: one[index] for index in indices}
    assert all(same(other[index], first[index]) for index in reversed(indices))
    third = make(root, seed=6)
    assert not any(same(third[index], first[index]) for index in indices)


def test_every_epoch_holds_each_utterance_once_in_its_own_order(root: Path) -> None:
    examples = make(root, degradation=NO_DEGRADATION)
    utterances = [int(examples[divmod(number, 4)]["utterance"]) for number in range(24)]
    assert Counter(utterances[:12]) == Counter(range(12)) == Counter(utterances[12:])
    assert utterances[:12] != utterances[12:]


def test_without_a_degradation_nothing_else_differs_and_no_pool_is_needed(root: Path) -> None:
    examples, plain = make(root, sample_rate_hz=24000), make(root, sample_rate_hz=24000, degradation=None)
    for slot in range(4):
        one, other = examples[0, slot], plain[0, slot]
        assert torch.equal(other["degraded"], other["clean"])
        assert not torch.equal(one["degraded"], one["clean"])
        rest = one.keys() - {"degraded"}
        assert same({key: one[key] for key in rest}, {key: other[key] for key in rest})


@pytest.mark.parametrize("rate_hz", [16000, 24000, 22050, 48000])
def test_target_is_the_clean_crop_at_its_rate(root: Path, rate_hz: int) -> None:
    examples = make(root, sample_rate_hz=rate_hz)
    for slot in range(4):
        example = examples[(1, slot)]
        assert example["clean"].shape == example["degraded"].shape == (16000,)
        assert example["target"].shape == (rate_hz,)
        assert {example[key].dtype for key in ("clean", "degraded", "target")} == {torch.float32}
        assert {example[key].dtype for key in ("valid_frames", "segment_start", "utterance")} == {torch.int64}
        down = resample(example["target"].numpy(), rate_hz, 16000)
        if rate_hz == 16000:
            assert torch.equal(example["target"], example["clean"])
        inside = slice(1000, int(example["valid_frames"]) * 320 - 1000)
        # Not equal: two filters in turn, and breath noise up to the edge of both.
        assert np.corrcoef(down[inside], example["clean"].numpy()[inside])[0, 1] > 0.999


def test_degraded_and_clean_share_no_memory_and_differ(root: Path) -> None:
    for degradation in (DEGRADATION, NO_DEGRADATION):
        example = make(root, degradation=degradation)[(0, 0)]
        pointers = {example[key].data_ptr() for key in ("clean", "degraded", "target")}
        assert len(pointers) == 3
        assert torch.equal(example["clean"], example["degraded"]) == (degradation is NO_DEGRADATION)


def test_clean_does_not_depend_on_the_degradation(root: Path) -> None:
    with_it, without = make(root), make(root, degradation=NO_DEGRADATION)
    for slot in range(4):
        for key in ("clean", "target", "valid_frames", "segment_start", "utterance"):
            assert torch.equal(with_it[(2, slot)][key], without[(2, slot)][key])


def test_short_utterances_are_padded_and_counted_in_frames(root: Path) -> None:
    examples = make(root, crop_seconds=2.0, segment_frames=30, degradation=NO_DEGRADATION)
    short = 0
    for number in range(24):
        example = examples[divmod(number, 4)]
        seconds = examples.manifest.row(int(example["utterance"])).seconds
        valid = int(example["valid_frames"])
        assert valid == min(100, -(-round(seconds * 16000) // 320))
        assert not example["clean"][valid * 320 :].any()
        assert 0 <= int(example["segment_start"]) <= max(0, valid - 30)
        short += valid < 100
    assert short > 0


def test_crops_and_segments_start_on_frames_all_over_the_utterance(root: Path) -> None:
    manifest = Manifest.read(root / "data/prepared/manifest.parquet")
    longest = max(range(len(manifest)), key=lambda index: manifest.row(index).seconds)
    one = Manifest.from_utterances([manifest.row(longest)])
    examples = make(root, manifest=one, degradation=NO_DEGRADATION, level_db=(-30.0, -30.0))
    wave, rate_hz = read_audio(root / one.row(0).path)
    whole = resample(wave, rate_hz, 16000)
    whole = whole * np.float32(10 ** ((-30 - one.row(0).level_db) / 20))
    starts = set()
    for step in range(20):
        clean = examples[(step, 0)]["clean"].numpy()
        matches = [
            frame
            for frame in range((len(whole) - 16000) // 320 + 1)
            if np.allclose(whole[frame * 320 : frame * 320 + 16000], clean, atol=1e-5)
        ]
        assert matches
        starts.add(matches[0])
    assert len(starts) > 10
    assert len({int(examples[(step, 0)]["segment_start"]) for step in range(20)}) > 10


def test_level_is_drawn_in_its_range_and_never_clips(root: Path) -> None:
    examples = make(root, degradation=NO_DEGRADATION, crop_seconds=4.0)
    waves = [examples[divmod(number, 4)]["clean"].numpy() for number in range(24)]
    levels = [active_level_db(frame_energies(wave), len(wave)) for wave in waves]
    assert all(-35.5 < level < -24.5 for level in levels)
    assert np.ptp(levels) > 5
    loud = make(root, degradation=NO_DEGRADATION, level_db=(0.0, 0.0))
    assert max(float(loud[(0, slot)]["clean"].abs().max()) for slot in range(4)) <= 0.991


def test_silent_utterance_stays_silent(root: Path, tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", np.zeros(20000, np.float32), 16000)
    silent = scan_folder(tmp_path, root)
    example = make(root, manifest=silent)[(0, 0)]
    assert not example["clean"].any()
    assert not example["degraded"].any()


def test_another_stream_name_draws_other_crops_of_the_same_utterances(root: Path) -> None:
    one, other = make(root), make(root, stream_name="valid")
    assert torch.equal(one[(0, 0)]["utterance"], other[(0, 0)]["utterance"])
    assert not torch.equal(one[(0, 0)]["degraded"], other[(0, 0)]["degraded"])


def test_a_changed_or_missing_file_is_an_error(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "copy")
    examples = make(tmp_path / "copy")
    path = tmp_path / "copy" / examples.manifest.row(int(examples[(0, 0)]["utterance"])).path
    write_audio(path, np.full(9000, 0.1, np.float32), 16000)
    with pytest.raises(AudioError, match=rf"{path.name}.*not the manifest's"):
        make(tmp_path / "copy")[(0, 0)]
    path.write_bytes(b"no sound")
    with pytest.raises(AudioError, match=rf"{path.name}.*cannot be read"):
        make(tmp_path / "copy")[(0, 0)]
    path.unlink()
    with pytest.raises(AudioError, match=rf"{path.name}.*does not exist"):
        make(tmp_path / "copy")[(0, 0)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_seconds": 0.01}, r"crop_seconds=0\.01: should be a whole number of frames"),
        ({"crop_seconds": 0.0}, r"crop_seconds=0\.0: should be greater than 0"),
        ({"segment_frames": 51}, "segment_frames=51: the crop has 50 frames"),
        ({"level_db": [-10.0, -20.0]}, r"level_db=\[-10\.0, -20\.0\]: should be \[low, high\]"),
        ({"on_bad_file": "ignore"}, "on_bad_file=ignore: should be one of error, skip"),
        ({"pad_to": "wave"}, "pad_to=wave: should be one of crop, longest"),
    ],
)
def test_wrong_configuration_is_an_error_that_names_the_key(changes: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"crop_seconds": 1.0, "level_db": [-30.0, -20.0], "segment_frames": 10, **changes}
    with pytest.raises(ValueError, match=message):
        DataConfig(**values)


def test_a_split_without_utterances_is_an_error(root: Path) -> None:
    with pytest.raises(ValueError, match="the manifest holds no utterance"):
        make(root, manifest=Manifest.from_utterances([]))


def test_an_index_outside_the_batch_is_an_error(root: Path) -> None:
    for index in ((-1, 0), (0, 4), (0, -1)):
        with pytest.raises(IndexError, match="of batches of 4"):
            make(root)[index]
