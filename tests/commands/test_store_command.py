"""`miipher2 store`: what it keeps is what training makes, and mistakes are said in one line."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from tiny_checkpoints import Command

from miipher2.batches import make_batches
from miipher2.config import ROOT, stage_config
from miipher2.data.prepare import prepare
from miipher2.data.prepared import Prepared


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return prepared data of the shortest of the embedded speech."""
    folder = tmp_path_factory.mktemp("data")
    speech = sorted((ROOT / "data/embedded").rglob("*.flac"), key=lambda path: (path.stat().st_size, path.name))
    (folder / "speech").mkdir()
    for path in speech[:30]:
        (folder / "speech" / f"{path.parent.name}_{path.name}").symlink_to(path)
    prepare(folder / "speech", folder / "prepared", root=ROOT, seed=0, noise_files=6, rooms=2)
    return folder / "prepared"


def test_a_stage_gets_the_same_batches_from_what_is_stored(prepared: Path, tmp_path: Path, miipher2: Command) -> None:
    own = [f"data.prepared={prepared}", "batch_size=2", "data.crop_seconds=0.4", "steps=3", "loader.num_workers=0"]
    said = miipher2("store", "train_adapter", "adapter_mini", tmp_path / "kept", *own, "--steps", 16)
    assert said.code == 0, said.error
    assert "16 batches in 0.00 GB; train with loader.stored=" in said.out

    def batches(*overrides: str) -> list[dict]:
        Plugins.instance()
        with initialize_config_dir(str(ROOT / "configs/train_adapter"), version_base="1.3"):
            config = stage_config(compose("adapter_mini", overrides=[*own, *overrides]), "train_adapter")
        OmegaConf.set_readonly(config, True)
        return list(make_batches(config, Prepared.read(ROOT, str(prepared)))[0](0, 3))

    for one, other in zip(batches(), batches(f"loader.stored={tmp_path / 'kept'}"), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    with pytest.raises(ValueError, match="its examples are others; seed: 0 stored, 1 configured"):
        batches(f"loader.stored={tmp_path / 'kept'}", "seed=1")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("train_vocoder", "adapter_mini"), "train_vocoder: is no training stage"),
        (("train_adapter", "adapter_maxi"), "adapter_maxi"),
        (("train_adapter", "adapter_mini", "batch=2"), "batch"),
        (("train_adapter", "adapter_mini", "data.prepared=nowhere"), "nowhere holds no manifest.parquet"),
    ],
)
def test_mistakes_are_said_in_one_line(tmp_path: Path, miipher2: Command, words: tuple[str, ...], named: str) -> None:
    stage, config, *overrides = words
    said = miipher2("store", stage, config, tmp_path / "kept", *overrides, "--steps", 2)
    assert said.code == 2
    assert named in said.error
    assert said.error.count("\n") == 1
    assert not (tmp_path / "kept").exists()
