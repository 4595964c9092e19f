"""HiFi-GAN: exact length, chunks, exported weights."""

import re
from typing import Any

import pytest
import torch

from miipher2.models.vocoder.hifigan import HifiGan
from miipher2.models.vocoder.registry import load_exported_generator

FACTORS = {16_000: [8, 5, 4, 2], 22_050: [7, 7, 3, 3], 24_000: [8, 5, 4, 3], 48_000: [8, 5, 4, 3, 2]}


def numbers(rate_hz: int, /, **changes: Any) -> dict[str, Any]:
    small = {"dim": 6, "channels": 32, "kernels": [3, 5], "dilations": [1, 3]}
    return {**small, "sample_rate_hz": rate_hz, "upsample_factors": FACTORS[rate_hz], **changes}


def build_generator(sample_rate_hz: int, **changes: Any) -> HifiGan:
    torch.manual_seed(0)
    return HifiGan(**numbers(sample_rate_hz, **changes)).eval()


@pytest.mark.parametrize("sample_rate_hz", FACTORS)
def test_wave_is_exactly_as_long_as_its_frames(sample_rate_hz: int) -> None:
    generator = build_generator(sample_rate_hz)
    assert generator.hop_samples == sample_rate_hz // 50
    for frames in (1, 2, 7):
        assert generator(torch.randn(2, frames, 6)).shape == (2, frames * sample_rate_hz // 50)


@pytest.mark.parametrize("sample_rate_hz", FACTORS)
def test_chunks_with_context_equal_the_whole(sample_rate_hz: int) -> None:
    generator = build_generator(sample_rate_hz)
    hop, context = generator.hop_samples, generator.context_frames
    features = torch.randn(1, 40, 6)
    with torch.no_grad():
        whole, chunks = generator(features), []
        for start in range(0, 40, 10):
            low, high = max(start - context, 0), min(start + 10 + context, 40)
            chunks.append(generator(features[:, low:high])[:, (start - low) * hop : (start - low + 10) * hop])
    torch.testing.assert_close(torch.cat(chunks, 1), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sample_rate_hz", FACTORS)
def test_context_covers_every_frame_that_affects_a_sample(sample_rate_hz: int) -> None:
    # Positive weights and no bias: nothing cancels, so a gradient is zero only where nothing is affected.
    generator = build_generator(sample_rate_hz).double().remove_weight_norm()
    for parameter in generator.parameters():
        torch.nn.init.constant_(parameter, 0.01 if parameter.ndim > 1 else 0)
    middle, hop = 25, generator.hop_samples
    features = torch.full((1, 51, 6), 1e-3, dtype=torch.float64, requires_grad=True)
    generator(features)[0, middle * hop : (middle + 1) * hop].sum().backward()
    assert features.grad is not None
    affected = features.grad[0].abs().sum(-1).nonzero().squeeze(1)
    assert max(middle - affected.min().item(), affected.max().item() - middle) == generator.context_frames


def test_hifigan_v1_has_a_context_of_fifteen_frames() -> None:
    sizes = {"channels": 512, "kernels": [3, 7, 11], "dilations": [1, 3, 5], "dim": 768}
    with torch.device("meta"):
        generator = HifiGan(**numbers(22_050, **sizes))
    assert generator.context_frames == 15


def test_exported_weights_give_the_same_wave() -> None:
    generator, features = build_generator(16_000), torch.randn(1, 5, 6)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.mul_(1 + 0.1 * torch.randn_like(parameter))
    expected, exported = generator(features), generator.exported_state_dict()
    assert not [name for name in exported if "parametrizations" in name]
    folded = load_exported_generator(exported, kind="hifigan", **numbers(16_000))
    assert torch.equal(folded(features), expected)
    assert {name: tuple(tensor.shape) for name, tensor in folded.state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in exported.items()
    }
    assert torch.equal(generator.remove_weight_norm()(features), expected)


def test_exported_weights_stay_trainable() -> None:
    source, features = build_generator(16_000), torch.randn(1, 5, 6)
    generator = HifiGan(**numbers(16_000))
    generator.load_exported_state_dict(source.exported_state_dict())
    torch.testing.assert_close(generator(features), source(features), atol=1e-5, rtol=0)
    assert set(generator.state_dict()) == set(source.state_dict())
    generator(features).square().mean().backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())


def test_wrong_exported_weights_are_an_error_and_change_nothing() -> None:
    generator = build_generator(16_000)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    exported = generator.exported_state_dict()
    short = {name: tensor * 2 for name, tensor in exported.items() if name != "last.bias"}
    for state, text in (
        (short, "last.bias is missing; should be (1,)"),
        ({**exported, "more.bias": torch.zeros(1)}, "more.bias is (1,); should be absent"),
        ({**exported, "last.bias": torch.zeros(2)}, "last.bias is (2,); should be (1,)"),
    ):
        with pytest.raises(ValueError, match=re.escape(text)):
            generator.load_exported_state_dict(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"upsample_factors": [8, 8, 2, 2]}, "[8, 8, 2, 2] multiply to 256; should be 320 for sample_rate_hz=16000"),
        ({"sample_rate_hz": 16_010}, "sample_rate_hz=16010; should be a multiple of 50"),
        ({"channels": 24}, "channels=24 are halved 4 times; should be a multiple of 16"),
        ({"kernels": [3, 4]}, "kernels=[3, 4]: 4 should be odd"),
    ],
)
def test_arguments_that_do_not_fit_are_an_error(changes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        HifiGan(**numbers(16_000, **changes))
