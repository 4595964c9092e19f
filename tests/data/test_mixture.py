"""A mixture of a tree and of tar shards, from its configuration to batches: the same for any workers and any start."""

import io
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from data_configs import data_config, degradation_config
from omegaconf import OmegaConf
from synthetic_voices import synthetic_voice

from miipher2.audio.io import write_audio
from miipher2.config.load import to_dataclass
from miipher2.config.schema_data import PrepareDataConfig
from miipher2.data.dataloader import make_dataloader
from miipher2.data.dataset import SpeechDataset
from miipher2.data.prepared import PreparedData
from miipher2.preparation.prepare import prepare

MIXTURE = """
source: corpora
prepared: data/prepared
seed: 0
noise_files: 2
rooms: 1
corpora:
  libritts_r: {folder: LibriTTS_R, layout: libritts_r, weight: 3.0}
  shards: {folder: shards, layout: webdataset, weight: 1.0}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository root with both corpora in corpora/, and data/prepared made from them."""
    root = tmp_path_factory.mktemp("mixture")
    for number, subset in enumerate([*["train-clean-100"] * 10, "dev-clean", "test-clean"]):
        path = root / f"corpora/LibriTTS_R/{subset}/{number}/1/{number}_1.wav"
        path.parent.mkdir(parents=True)
        write_audio(path, synthetic_voice(0.6, 24000, number), 24000)
    (root / "corpora/shards").mkdir()
    with tarfile.open(root / "corpora/shards/0.tar", "w") as shard:
        for number in range(8):
            write_audio(root / "one.flac", synthetic_voice(0.6, seed=100 + number), 16000)
            member = tarfile.TarInfo(f"ja/s{number}/{number}.flac")
            content = (root / "one.flac").read_bytes()
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
    config = to_dataclass(OmegaConf.merge(OmegaConf.structured(PrepareDataConfig), OmegaConf.create(MIXTURE)))
    report = prepare(config, root)
    assert {name: group["utterances"] for name, group in report["corpora"].items()} == {"libritts_r": 12, "shards": 8}
    assert set(report["languages"]) == {"en", "ja"}
    return root


def make(root: Path) -> SpeechDataset:
    data = PreparedData.read(root, "data/prepared")
    half: dict[str, Any] = {"probability": 0.5, "snr_db": [5, 20]}
    return SpeechDataset(
        data.speech.select("train"),
        data.pools(root, "train"),
        data_config(0.4),
        degradation_config({"babble": half, "noise": half}),
        root=root,
        seed=1,
        batch_size=4,
        sample_rate_hz=24000,
        weights=data.weights,
    )


@pytest.mark.parametrize(("start", "workers"), [(0, 2), (3, 0), (3, 1)])
def test_batches_of_a_mixture_depend_on_the_step_only(root: Path, start: int, workers: int) -> None:
    whole, again = (
        list(make_dataloader(make(root), start_step=begin, stop_step=6, num_workers=count))
        for begin, count in ((0, 0), (start, workers))
    )
    for one, other in zip(whole[start:], again, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_weights_are_kept_and_part_of_the_digest(root: Path, tmp_path: Path) -> None:
    examples = make(root)
    utterances = [int(examples[divmod(number, 4)]["utterance"]) for number in range(120)]
    counts = Counter(examples.manifest.row(index).corpus for index in utterances)
    assert 70 < counts["libritts_r"] < 110  # four standard deviations of 90
    data = PreparedData.read(root, "data/prepared")
    other = PreparedData(data.speech, data.noises, data.rooms, {"libritts_r": 1.0, "shards": 1.0})
    assert other.digest != data.digest
