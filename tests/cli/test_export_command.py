"""`miipher2 export`: a bundle for `miipher2 restore`, with ONNX graphs."""

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import Command
from tiny_weights import publish_all, wave

from miipher2.audio.io import read_audio, write_audio


@pytest.mark.filterwarnings("ignore")
def test_exported_bundle_restores_like_the_published_weights(tmp_path: Path, miipher2: Command) -> None:
    publish_all(tmp_path, "hubert", absolute=True)
    write_audio(tmp_path / "in.wav", wave(8_000), 16_000)
    weights_args = ["--adapter", tmp_path / "adapter", "--vocoder", tmp_path / "vocoder"]
    result = miipher2("export", tmp_path / "bundle", *weights_args, "--precision", "fp32", "--onnx")
    assert result.code == 0, result.error
    for name in ("bundle.json", "weights.safetensors", "encoder/model.safetensors", "encoder.onnx", "vocoder.onnx"):
        assert str(tmp_path / "bundle" / name) in result.out
    assert miipher2("restore", tmp_path / "in.wav", tmp_path / "a.wav", *weights_args).code == 0
    assert miipher2("restore", tmp_path / "in.wav", tmp_path / "b.wav", "--bundle", tmp_path / "bundle").code == 0
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], read_audio(tmp_path / "b.wav")[0])
    assert miipher2("export", tmp_path / "bundle", *weights_args).code == 2
    result = miipher2(
        "restore", tmp_path / "in.wav", tmp_path / "c.wav", *weights_args, "--bundle", tmp_path / "bundle"
    )
    assert (result.code, "--bundle includes adapter and vocoder" in result.error) == (2, True)


def test_vocoder_without_a_graph_is_refused_before_anything_is_written(tmp_path: Path, miipher2: Command) -> None:
    publish_all(tmp_path, "mini", absolute=True, generator="harmonic_vocos")
    weights_args = ["--adapter", tmp_path / "adapter", "--vocoder", tmp_path / "vocoder"]
    result = miipher2("export", tmp_path / "bundle", *weights_args, "--onnx")
    assert (result.code, "the vocoder is a harmonic_vocos" in result.error) == (2, True), result.error
    assert not (tmp_path / "bundle").exists()
    assert miipher2("export", tmp_path / "bundle", *weights_args).code == 0
