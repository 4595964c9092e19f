"""The front ends: w2v-BERT 2.0's log-mel against transformers' own, and the masked statistics."""

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers.audio_utils import mel_filter_bank, window_function

from miipher2.models.encoder.from_pretrained import load_encoder
from miipher2.models.encoder.logmel_frontend import LogMelFrontEnd, log_mel_front_end
from miipher2.models.encoder.mini import build_mini_encoder


def new_wave(seconds: float) -> torch.Tensor:
    """Return a vowel-like wave with pauses: harmonics over a little noise."""
    rng = np.random.default_rng(0)
    time = np.arange(round(16_000 * seconds)) / 16_000
    voice = sum(np.sin(2 * np.pi * 140 * k * time + k) / k for k in range(1, 40)) * (np.sin(2 * np.pi * 1.5 * time) > 0)
    return torch.from_numpy((0.1 * voice + 0.003 * rng.standard_normal(len(time))).astype(np.float32))


def test_log_mel_equals_that_of_transformers() -> None:
    wave = new_wave(2.0)
    extractor = transformers.SeamlessM4TFeatureExtractor()
    padded = np.pad(wave.numpy(), (120, 120))
    expected = torch.from_numpy(extractor(padded, sampling_rate=16_000, return_tensors="np")["input_features"])
    assert expected.shape == (1, 100, 160)
    front_end = LogMelFrontEnd(80)
    torch.testing.assert_close(front_end(wave[None]), expected, atol=1e-3, rtol=0)
    longer = torch.cat([wave, torch.zeros(8000)])[None]
    torch.testing.assert_close(front_end(longer, torch.tensor([100]))[:, :100], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("mels", [20, 80, 128])
def test_window_and_filters_are_those_of_transformers_to_the_bit(mels: int) -> None:
    front_end = LogMelFrontEnd(mels)
    expected = mel_filter_bank(257, mels, 20, 8000, 16_000, mel_scale="kaldi", triangularize_in_mel_space=True)
    assert torch.equal(front_end.filters, torch.from_numpy(expected).float())
    assert torch.equal(front_end.window, torch.from_numpy(window_function(400, "povey", periodic=False)).float())


def test_silence_is_finite() -> None:
    silence = torch.zeros(1, 3200)
    fixed = LogMelFrontEnd(80, "fixed", 10.0, 4.0, mirror=True)
    assert fixed(silence).isfinite().all()
    assert LogMelFrontEnd(80)(silence).isfinite().all()
    assert LogMelFrontEnd(80)(silence[:, :320]).isfinite().all()


def test_fixed_statistics_depend_on_the_level_and_on_no_other_frame() -> None:
    wave = new_wave(1.0)[None]
    front_end = LogMelFrontEnd(80, "fixed", mean=[10.0] * 80, std=[4.0] * 80, mirror=True)
    frames = front_end(wave)
    assert frames.shape == (1, 50, 320)
    assert torch.equal(frames[..., :160], -frames[..., 160:])
    torch.testing.assert_close(front_end(wave[:, :6400])[:, :19], frames[:, :19], atol=1e-4, rtol=0)
    # Twice the amplitude is ln 4 more in every band of every frame, that is ln 4 / std.
    torch.testing.assert_close(front_end(wave * 2)[..., :160], frames[..., :160] + np.log(4) / 4, atol=1e-3, rtol=0)
    by_number = LogMelFrontEnd(80, "fixed", mean=10.0, std=4.0, mirror=True)
    assert torch.equal(by_number(wave), frames)


def test_level_reaches_the_features_only_when_mirrored(tmp_path: Path) -> None:
    sizes = {"hidden_dim": 16, "layers": 1, "heads": 2, "intermediate_dim": 16, "kernel": 3, "mels": 20}
    changes = {}
    for mirror in (False, True):
        torch.manual_seed(0)
        model = build_mini_encoder(**sizes, mean=6.0, std=4.0, mirror=mirror)
        model.save_pretrained(tmp_path)
        assert model.config.feature_projection_input_dim == (80 if mirror else 40)
        extract_frames = load_encoder(tmp_path, 1).extract_frames
        wave = new_wave(1.0)[None]
        changes[mirror] = (extract_frames(wave * 2).hidden - extract_frames(wave).hidden).abs().max().item()
    assert changes[False] < 1e-3 < 1e-2 < changes[True]


def test_constants_keep_what_a_layer_norm_divides_out() -> None:
    # Frames whose log-mel has the same shape and another deviation: one to the LayerNorm that follows.
    mel = torch.randn(1, 2, 20, generator=torch.Generator().manual_seed(0))
    for constants, differs in ((0, False), (3, True)):
        front_end = LogMelFrontEnd(20, "fixed", 0.0, 1.0, mirror=True, constants=constants)
        quiet, loud = (front_end.stack(mel * gain) for gain in (1.0, 2.0))
        assert quiet.shape == (1, 1, front_end.dim)
        quiet, loud = (torch.nn.functional.layer_norm(frame, (front_end.dim,)) for frame in (quiet, loud))
        assert ((quiet - loud).abs().max() > 0.1) == differs


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"normalise": "batch"}, "should be 'utterance' or 'fixed'"),
        ({"normalise": "fixed"}, "both go with 'fixed'"),
        ({"normalise": "utterance", "mean": 1.0}, "both go with 'fixed'"),
        ({"normalise": "fixed", "mean": [1.0, 2.0], "std": 1.0}, r"mean has \(2,\) values"),
        ({"normalise": "fixed", "mean": 1.0, "std": 0.0}, "should be greater than 0"),
        ({"shift_samples": 121}, "should be from -120 to 120"),
        ({"constants": -1}, "should be 0 or more"),
    ],
)
def test_unfit_settings_are_named(settings: dict, text: str) -> None:
    model_config = transformers.Wav2Vec2BertConfig(miipher2_front_end={"mels": 80, **settings})
    with pytest.raises(ValueError, match=text):
        log_mel_front_end(model_config)


def test_front_end_that_does_not_fit_the_model_is_refused() -> None:
    config = transformers.Wav2Vec2BertConfig(miipher2_front_end={"mels": 40})
    with pytest.raises(ValueError, match="frames of 80 values; should be feature_projection_input_dim=160"):
        log_mel_front_end(config)
