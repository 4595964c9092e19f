"""ONNX graphs agree with PyTorch, for lengths and batches that they were not traced with."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from tiny_weights import ENCODERS, load, publish_all, wave

from miipher2.audio.io import read_audio
from miipher2.audio.resample import resample
from miipher2.config.paths import ROOT
from miipher2.inference.onnx_export import export_graphs
from miipher2.inference.weights import Vocoder, Weights
from miipher2.models.encoder.feature_norm import FeatureNormaliser
from miipher2.models.encoder.from_pretrained import load_encoder
from miipher2.models.vocoder.hifigan import HifiGan

pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_both_graphs_agree_with_pytorch_at_any_length(tmp_path: Path, encoder: str) -> None:
    layers: int | list[int] = [1, 2] if encoder == "mini" else 2
    generator = {"mini": "vocos", "w2v_bert": "dac", "wavlm": "conformer_hifigan"}.get(encoder, "hifigan")
    publish_all(tmp_path, encoder, 24_000, generator=generator, layer=layers)
    restorer = load(tmp_path)
    export_graphs(restorer.weights, tmp_path)
    encode = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    vocode = onnxruntime.InferenceSession(tmp_path / "vocoder.onnx")
    for frames, batch in [(1, 1), (10, 1), (50, 3), (777, 1)]:
        waves = wave(frames * 320 * batch).reshape(batch, -1)
        expected = np.stack([restorer.features(one) for one in waves])
        (features,) = encode.run(None, {"waves": waves})
        np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())
        assert np.abs(features - np.stack([restorer.features(one, adapted=False) for one in waves])).max() > 0.1
        (restored,) = vocode.run(None, {"features": expected})
        assert restored.shape == (batch, frames * 480)
        np.testing.assert_allclose(restored, np.stack([restorer.vocode(one) for one in expected]), atol=1e-4)


def test_shipped_encoder_agrees_with_pytorch_on_speech_and_silence(tmp_path: Path) -> None:
    encoder = load_encoder(ROOT / "models/mini/restorer/encoder", 3)
    encoder.add_adapters(16)
    torch.manual_seed(0)
    for adapter in encoder.adapters.parameters():
        torch.nn.init.normal_(adapter, std=0.1)
    vocoder = Vocoder(FeatureNormaliser(encoder.dim), HifiGan(encoder.dim, 16_000, 16, [8, 5, 4, 2], [3], [1]))
    export_graphs(Weights(encoder, FeatureNormaliser(encoder.dim), vocoder), tmp_path)
    encode = onnxruntime.InferenceSession(tmp_path / "encoder.onnx")
    recording, rate_hz = read_audio(sorted((ROOT / "data/embedded/en").glob("*.flac"))[0])
    speech = resample(recording, rate_hz, 16_000)
    for values in (speech[: len(speech) // 320 * 320], np.zeros(320 * 20, np.float32)):
        with torch.inference_mode():
            expected = encoder(torch.from_numpy(values)[None], adapted=True).numpy()
        (features,) = encode.run(None, {"waves": values[None]})
        np.testing.assert_allclose(features, expected, atol=1e-4 * np.abs(expected).max())
