"""The losses equal numbers worked out by hand."""

import math

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


def test_feature_loss_ignores_invalid_frames() -> None:
    predicted, target = torch.randn(2, 6, 3), torch.randn(2, 6, 3)
    valid = torch.arange(6) < torch.tensor([6, 2])[:, None]
    rows = valid.nonzero(as_tuple=True)
    expected = feature_loss(predicted[rows][None], target[rows][None])
    torch.testing.assert_close(feature_loss(predicted, target, valid), expected)
    predicted[1, 2:] = float("nan")
    torch.testing.assert_close(feature_loss(predicted, target, valid), expected)


def test_feature_loss_of_a_zero_target_is_finite() -> None:
    assert feature_loss(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2)).item() == 0


def test_mel_distance_is_the_mean_difference() -> None:
    distance, wave = MelDistance(16_000), 0.1 * torch.randn(2, 6400)
    assert distance(wave, wave).item() == 0
    # Half the amplitude is ln 2 less in every band.
    assert distance(wave / 2, wave).item() == pytest.approx(math.log(2), abs=1e-3)
    assert not distance.state_dict()


def test_mel_distance_of_silence_has_a_finite_gradient() -> None:
    wave = torch.zeros(1, 3200, requires_grad=True)
    MelDistance(16_000)(wave, torch.zeros(1, 3200)).backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()


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
