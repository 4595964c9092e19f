"""The discriminators' outputs and their deterministic padding."""

import pytest
import torch
import torch.nn.functional as F

from miipher2.models.vocoder.discriminators import (
    Discriminators,
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    reflect_pad,
)


@pytest.mark.parametrize(("left", "right"), [(0, 0), (0, 3), (5, 0), (4, 9)])
def test_reflection_equals_that_of_torch(left: int, right: int) -> None:
    wave = torch.randn(2, 10, requires_grad=True)
    weights = torch.randn(2, 10 + left + right)
    padded, expected = reflect_pad(wave, left, right), F.pad(wave, (left, right), mode="reflect")
    assert torch.equal(padded, expected)
    gradients = [torch.autograd.grad((output * weights).sum(), wave)[0] for output in (padded, expected)]
    torch.testing.assert_close(*gradients)


def test_wave_too_short_to_reflect_is_an_error() -> None:
    with pytest.raises(ValueError, match="a wave of 10 samples; should be longer than its padding, 10"):
        reflect_pad(torch.zeros(1, 10), 0, 10)


def test_there_is_one_output_per_period_scale_and_resolution() -> None:
    discriminators = Discriminators(periods=[2, 3, 5], scales=2, resolutions=[128, 256], channels=2, max_channels=16)
    wave = torch.randn(3, 1601, requires_grad=True)  # no multiple of any period
    views = discriminators(wave)
    assert len(views) == 7
    for score, maps in views:
        assert score.shape[0] == 3
        assert score.ndim == 2
        assert torch.equal(maps[-1].flatten(1), score)
        assert max(m.shape[1] for m in maps) <= 16
    torch.stack([score.mean() for score, _ in views]).sum().backward()
    assert wave.grad is not None
    assert all(parameter.grad is not None for parameter in discriminators.parameters())


def test_widths_are_those_of_the_papers() -> None:
    with torch.device("meta"):
        period = MultiPeriodDiscriminator([2], channels=32)
    assert [layer.out_channels for layer in period.stacks[0].layers] == [32, 128, 512, 1024, 1024]
    scale = MultiScaleDiscriminator(1, channels=32, max_channels=64)
    assert [layer.out_channels for layer in scale.stacks[0].layers] == [64] * 7
    assert [layer.groups for layer in scale.stacks[0].layers] == [1, 4, 16, 16, 16, 16, 1]
    small = MultiScaleDiscriminator(1, channels=4, max_channels=64)
    assert [layer.groups for layer in small.stacks[0].layers] == [1, 4, 4, 8, 16, 16, 1]


def test_input_scale_multiplies_the_wave() -> None:
    torch.manual_seed(0)
    plain = Discriminators([2], 1, [], 2, 8).eval()
    scaled = Discriminators([2], 1, [], 2, 8, input_scale=4.0).eval()
    scaled.load_state_dict(plain.state_dict())
    wave = torch.randn(1, 400)
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(scaled(wave), plain(wave * 4), strict=True))


def test_silence_has_a_finite_gradient() -> None:
    wave = torch.zeros(1, 800, requires_grad=True)
    sum(score.sum() for score, _ in Discriminators([2], 1, [128], 2, 8)(wave)).backward()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()


def test_no_discriminator_is_an_error() -> None:
    with pytest.raises(ValueError, match="all empty"):
        Discriminators([], 0, [], 2, 8)
