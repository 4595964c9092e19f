"""Weights on the hub, by a local stand-in: restoring from them, with and without a network, and what is missing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_hub import LocalHub, local_hub
from tiny_weights import load, publish_all, wave

from miipher2.audio.io import write_audio
from miipher2.cli.main import main
from miipher2.inference.bundle import save_bundle
from miipher2.inference.restorer import Restorer
from miipher2.models.pretrained import PretrainedWeights, find_weights

__all__ = ["local_hub"]  # a fixture


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    publish_all(tmp_path, "mini")
    folder = tmp_path / "bundle"
    save_bundle(load(tmp_path).weights, folder, precision="fp32", encoder_from=str(tmp_path / "models/mini"))
    return folder


def test_a_bundle_on_the_hub_restores_the_same_bytes_also_without_the_hub(
    bundle: Path, tmp_path: Path, local_hub: LocalHub
) -> None:
    """With the hub in a process of its own, by the environment alone."""
    revision = local_hub.add_folder("owner/name", bundle)
    local_hub.add("owner/name", {"bundle.json": b"another"})
    write_audio(tmp_path / "in.wav", wave(8_000), 16_000)

    def words(name: object, out: str) -> list[str]:
        return ["restore", str(tmp_path / "in.wav"), str(tmp_path / out), "--bundle", str(name)]

    assert main(words(bundle, "local.wav")) == 0
    assert not local_hub.requests
    environment = os.environ | local_hub.environment(tmp_path / "hub_cache")
    command = [sys.executable, "-m", "miipher2.cli.main", *words(f"owner/name@{revision}", "first.wav")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"GET /owner/name/resolve/{revision}/weights.safetensors" in local_hub.requests
    local_hub.stop()
    assert main(words(f"owner/name@{revision}", "offline.wav")) == 0
    assert (tmp_path / "first.wav").read_bytes() == (tmp_path / "local.wav").read_bytes()
    assert (tmp_path / "offline.wav").read_bytes() == (tmp_path / "local.wav").read_bytes()


def test_published_folders_on_the_hub_restore_and_a_branch_is_found_in_the_cache(
    bundle: Path, tmp_path: Path, local_hub: LocalHub
) -> None:
    for part in ("adapter", "vocoder"):
        (tmp_path / part / "checkpoint_1.pt").write_bytes(b"large")
        local_hub.add_folder(f"owner/{part}", tmp_path / part)
    expected = load(tmp_path)(wave(5_000), 16_000)
    for _ in range(2):
        restorer = Restorer.from_published("owner/adapter", "owner/vocoder@main", root=tmp_path)
        np.testing.assert_array_equal(restorer(wave(5_000), 16_000), expected)
        local_hub.stop()
    assert not [each for each in local_hub.requests if "checkpoint" in each]  # large files stay there


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("owner/none", "there is no repository owner/none there, or it is private"),
        ("owner/name@v9", "owner/name has no revision v9"),
        ("owner/a--b", "is no name of a repository"),
    ],
)
def test_what_the_hub_does_not_have_is_one_clear_line(
    name: str, message: str, bundle: Path, tmp_path: Path, local_hub: LocalHub
) -> None:
    local_hub.add_folder("owner/name", bundle)
    with pytest.raises(FileNotFoundError) as error:
        find_weights(name, tmp_path, f"init_from.adapter={name}")
    assert message in str(error.value)
    assert str(error.value).startswith(f"init_from.adapter={name}: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_hub_that_cannot_be_reached_is_one_clear_line(tmp_path: Path, local_hub: LocalHub) -> None:
    local_hub.stop()
    with pytest.raises(
        FileNotFoundError, match=r"cannot be fetched.*cannot be reached, and the cache does not have it"
    ):
        find_weights("owner/name", tmp_path)


def test_a_file_that_is_missing_there_is_named(bundle: Path, tmp_path: Path, local_hub: LocalHub) -> None:
    (bundle / "weights.safetensors").unlink()
    local_hub.add_folder("owner/name", bundle)
    with pytest.raises(FileNotFoundError, match=r"weights.safetensors: missing; should be in .*owner--name"):
        Restorer.from_bundle("owner/name")
    with pytest.raises(FileNotFoundError, match=r"init_from.adapter=owner/name: has no weights.safetensors"):
        PretrainedWeights("init_from.adapter", "owner/name", tmp_path).read("adapters")
    local_hub.add("owner/other", {"README.md": b"nothing"})
    with pytest.raises(FileNotFoundError, match=r"init_from.adapter=owner/other: has no final.safetensors") as caught:
        PretrainedWeights("init_from.adapter", "owner/other", tmp_path)
    assert "dvc" not in str(caught.value)


def test_a_connection_lost_in_the_middle_is_one_clear_line(
    bundle: Path, tmp_path: Path, local_hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    local_hub.add_folder("owner/name", bundle)
    answer = huggingface_hub.HfApi.repo_info

    def stop_after(*arguments: Any, **named: Any) -> Any:
        info = answer(*arguments, **named)
        local_hub.stop()
        return info

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", stop_after)
    monkeypatch.setattr("time.sleep", lambda _: None)  # it tries again for a while
    with pytest.raises(FileNotFoundError, match="owner/name cannot be fetched"):
        find_weights("owner/name", tmp_path)
