"""`miipher2 export`: a bundle that `miipher2 restore` reads, and ONNX graphs beside it."""

from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import Command
from tiny_weights import publish_all, wave

from miipher2.audio.io import read_audio, write_audio


@pytest.mark.filterwarnings("ignore")
def test_a_bundle_restores_as_the_published_weights_do(tmp_path: Path, miipher2: Command) -> None:
    publish_all(tmp_path, "hubert", absolute=True)
    write_audio(tmp_path / "in.wav", wave(8_000), 16_000)
    given = ["--adapter", tmp_path / "adapter", "--vocoder", tmp_path / "vocoder"]
    said = miipher2("export", tmp_path / "bundle", *given, "--precision", "fp32", "--onnx")
    assert said.code == 0, said.error
    for name in ("bundle.json", "weights.safetensors", "encoder/model.safetensors", "encoder.onnx", "vocoder.onnx"):
        assert str(tmp_path / "bundle" / name) in said.out
    assert miipher2("restore", tmp_path / "in.wav", tmp_path / "a.wav", *given).code == 0
    assert miipher2("restore", tmp_path / "in.wav", tmp_path / "b.wav", "--bundle", tmp_path / "bundle").code == 0
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav")[0], read_audio(tmp_path / "b.wav")[0])
    assert miipher2("export", tmp_path / "bundle", *given).code == 2
    said = miipher2("restore", tmp_path / "in.wav", tmp_path / "c.wav", *given, "--bundle", tmp_path / "bundle")
    assert (said.code, "--bundle holds adapter and vocoder" in said.error) == (2, True)


def test_graphs_that_cannot_be_written_are_refused_before_anything_is(tmp_path: Path, miipher2: Command) -> None:
    publish_all(tmp_path, "mini", absolute=True, generator="harmonic_vocos")
    given = ["--adapter", tmp_path / "adapter", "--vocoder", tmp_path / "vocoder"]
    said = miipher2("export", tmp_path / "bundle", *given, "--onnx")
    assert (said.code, "a harmonic_vocos goes on from chunk to chunk" in said.error) == (2, True), said.error
    assert not (tmp_path / "bundle").exists()
    assert miipher2("export", tmp_path / "bundle", *given).code == 0
