"""ONNX graphs: what PyTorch computes, for lengths and batches that they were not traced with."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from tiny_weights import load, publish_all, wave

from miipher2.restoring.onnx_graphs import export_graphs

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("kind", ["hubert", "wav2vec2"])
def test_both_graphs_agree_with_pytorch_at_any_length(tmp_path: Path, kind: str) -> None:
    publish_all(tmp_path, kind, 24_000)
    restorer = load(tmp_path)
    export_graphs(restorer.weights, tmp_path)
    encode = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    vocode = onnxruntime.InferenceSession(tmp_path / "vocoder.onnx")
    for frames, batch in [(10, 1), (50, 3), (777, 1)]:
        waves = wave(frames * 320 * batch).reshape(batch, -1)
        wanted = np.stack([restorer.features(one) for one in waves])
        (features,) = encode.run(None, {"waves": waves})
        np.testing.assert_allclose(features, wanted, atol=1e-4 * np.abs(wanted).max())
        assert np.abs(features - np.stack([restorer.features(one, adapted=False) for one in waves])).max() > 0.1
        (made,) = vocode.run(None, {"features": wanted})
        assert made.shape == (batch, frames * 480)
        np.testing.assert_allclose(made, np.stack([restorer.vocode(one) for one in wanted]), atol=1e-4)


def test_an_encoder_of_log_mel_is_refused(tmp_path: Path) -> None:
    publish_all(tmp_path, "w2v_bert")
    with pytest.raises(ValueError, match="hears log-mel; only encoders that hear a wave"):
        export_graphs(load(tmp_path).weights, tmp_path)
