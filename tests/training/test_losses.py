"""The losses against numbers worked out by hand, and the log-mel against one written in NumPy."""

import math

import numpy as np
import pytest
import torch

from miipher2.training.losses import (
    MelDistance,
    discriminator_loss,
    feature_loss,
    feature_matching_loss,
    generator_adversarial_loss,
)


def test_feature_loss_is_l1_l2_and_spectral_convergence() -> None:
    predicted, target = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 4.0]]])
    # Differences 0, 2, 3, 0: L1 5/4, L2 13/4, spectral convergence 13/17.
    assert feature_loss(predicted, target).item() == pytest.approx(5 / 4 + 13 / 4 + 13 / 17)
    weighted = feature_loss(predicted, target, l1=2.0, l2=0.0, spectral_convergence=3.0)
    assert weighted.item() == pytest.approx(2 * 5 / 4 + 3 * 13 / 17)
    assert feature_loss(target, target).item() == 0


def test_feature_loss_hears_valid_frames_only() -> None:
    predicted, target = torch.randn(2, 6, 3), torch.randn(2, 6, 3)
    valid = torch.arange(6) < torch.tensor([6, 2])[:, None]
    rows = valid.nonzero(as_tuple=True)
    expected = feature_loss(predicted[rows][None], target[rows][None])
    torch.testing.assert_close(feature_loss(predicted, target, valid), expected)
    predicted[1, 2:] = float("nan")
    torch.testing.assert_close(feature_loss(predicted, target, valid), expected)


def test_feature_loss_of_a_zero_target_is_finite() -> None:
    assert feature_loss(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)).item() == 0


def slaney_mel(hz: float) -> float:
    return hz * 3 / 200 if hz < 1000 else 15 + math.log(hz / 1000) * 27 / math.log(6.4)


def slaney_hz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)


def numpy_log_mel(wave: np.ndarray, sample_rate_hz: int, window_samples: int, mels: int) -> np.ndarray:
    """Return the log-mel spectrogram of HiFi-GAN, with Slaney's bands, frame by frame."""
    hop = window_samples // 4
    padded = np.pad(wave.astype(np.float64), (window_samples - hop) // 2, mode="reflect")
    window = np.hanning(window_samples + 1)[:-1]
    edges = [slaney_hz(m) for m in np.linspace(0, slaney_mel(sample_rate_hz / 2), mels + 2)]
    bins_hz = np.fft.rfftfreq(window_samples, 1 / sample_rate_hz)
    steps = []
    for start in range(0, len(padded) - window_samples + 1, hop):
        magnitude = np.abs(np.fft.rfft(padded[start : start + window_samples] * window))
        bands = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            rise, fall = (bins_hz - low) / (centre - low), (high - bins_hz) / (high - centre)
            triangle = np.maximum(0, np.minimum(rise, fall)) * 2 / (high - low)
            bands.append(np.log(max(triangle @ np.sqrt(magnitude**2 + 1e-9), 1e-5)))
        steps.append(bands)
    return np.array(steps)


@pytest.mark.parametrize(("sample_rate_hz", "window_samples"), [(16_000, 1024), (22_050, 1024), (48_000, 2048)])
def test_log_mel_equals_one_written_in_numpy(sample_rate_hz: int, window_samples: int) -> None:
    wave = np.random.default_rng(0).standard_normal(4800).astype(np.float32) * 0.1
    distance = MelDistance(sample_rate_hz, mels=40)
    assert distance.window_samples == window_samples
    expected = numpy_log_mel(wave, sample_rate_hz, window_samples, 40)
    found = distance.log_mel(torch.from_numpy(wave)[None])[0].numpy()
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_mel_distance_is_the_mean_difference() -> None:
    distance, wave = MelDistance(16_000), torch.randn(2, 6400) * 0.1
    assert distance(wave, wave).item() == 0
    # Half the amplitude is ln 2 less in every band.
    assert distance(wave / 2, wave).item() == pytest.approx(math.log(2), abs=1e-3)
    assert not distance.state_dict()


def test_mel_distance_of_silence_has_a_finite_gradient() -> None:
    wave = torch.zeros(1, 3200, requires_grad=True)
    MelDistance(16_000)(wave, torch.zeros(1, 3200)).backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()


def test_wave_too_short_for_a_mel_is_refused() -> None:
    with pytest.raises(ValueError, match="a wave of 320 samples; should be longer than 384 for a window of 1024"):
        MelDistance(16_000)(torch.zeros(1, 320), torch.zeros(1, 320))


def test_adversarial_losses_are_least_squares() -> None:
    real = [(torch.tensor([[1.0, 3.0]]), []), (torch.tensor([[0.5]]), [])]
    fake = [(torch.tensor([[0.0, 2.0]]), []), (torch.tensor([[-1.0]]), [])]
    # First: real (0 + 4) / 2, fake (0 + 4) / 2; second: real 0.25, fake 1.
    assert discriminator_loss(real, fake).item() == pytest.approx(2 + 2 + 0.25 + 1)
    # First: (1 + 1) / 2; second: 4.
    assert generator_adversarial_loss(fake).item() == pytest.approx(1 + 4)


def test_feature_matching_sums_mean_differences_and_holds_real_fixed() -> None:
    score = torch.zeros(1, 1)
    maps_real = [torch.tensor([1.0, 2.0]).requires_grad_(), torch.tensor([[4.0]]).requires_grad_()]
    maps_fake = [torch.tensor([2.0, 4.0]).requires_grad_(), torch.tensor([[1.0]]).requires_grad_()]
    loss = feature_matching_loss([(score, maps_real)], [(score, maps_fake)])
    assert loss.item() == pytest.approx(1.5 + 3)
    loss.backward()
    assert all(m.grad is None for m in maps_real)
    assert all(m.grad is not None for m in maps_fake)
