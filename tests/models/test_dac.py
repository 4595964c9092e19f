"""The codec's decoder as a vocoder: exact length, chunks, exported weights."""

import re
from typing import Any

import pytest
import torch

from miipher2.models.vocoder.dac import Dac
from miipher2.models.vocoder.registry import load_exported_generator

FACTORS = {16_000: [8, 5, 4, 2], 24_000: [8, 5, 4, 3], 48_000: [8, 5, 4, 3, 2]}


def numbers(rate_hz: int, /, **changes: Any) -> dict[str, Any]:
    small = {"dim": 6, "channels": 64, "dilations": [1, 3]}
    return {**small, "sample_rate_hz": rate_hz, "upsample_factors": FACTORS[rate_hz], **changes}


def build_generator(sample_rate_hz: int, **changes: Any) -> Dac:
    torch.manual_seed(0)
    generator = Dac(**numbers(sample_rate_hz, **changes)).eval()
    with torch.no_grad():
        for parameter in generator.parameters():  # every weight has an effect, biases and frequencies too
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return generator


@pytest.mark.parametrize("sample_rate_hz", FACTORS)
def test_wave_is_exactly_as_long_as_its_frames(sample_rate_hz: int) -> None:
    generator = build_generator(sample_rate_hz)
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
    generator = build_generator(sample_rate_hz).double().remove_weight_norm()
    for parameter in generator.parameters():  # small positive values: no gradient cancels
        torch.nn.init.constant_(parameter, 0.01 if parameter.ndim > 1 else 0.0)
    middle, hop = 25, generator.hop_samples
    features = torch.full((1, 51, 6), 1e-3, dtype=torch.float64, requires_grad=True)
    generator(features)[0, middle * hop : (middle + 1) * hop].sum().backward()
    assert features.grad is not None
    affected = features.grad[0].abs().sum(-1).nonzero().squeeze(1)
    assert max(middle - affected.min().item(), affected.max().item() - middle) == generator.context_frames


def test_the_size_of_sidon_has_its_parameters_and_a_context_of_ten_frames() -> None:
    with torch.device("meta"):
        generator = Dac(**numbers(48_000, dim=1024, channels=1536, dilations=[1, 3, 9]))
    assert generator.context_frames == 10
    assert sum(parameter.numel() for parameter in generator.parameters()) == 52_446_002


def test_exported_weights_give_the_same_wave_and_stay_trainable() -> None:
    source, features = build_generator(24_000), torch.randn(1, 5, 6)
    exported = source.exported_state_dict()
    assert not [name for name in exported if "parametrizations" in name]
    folded = load_exported_generator(exported, kind="dac", **numbers(24_000))
    assert torch.equal(folded(features), source(features))
    generator = Dac(**numbers(24_000))
    generator.load_exported_state_dict(exported)
    torch.testing.assert_close(generator(features), source(features), atol=1e-5, rtol=0)
    generator(features).square().mean().backward()
    assert all(parameter.grad is not None for parameter in generator.parameters())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"upsample_factors": [8, 8, 2, 2]}, "[8, 8, 2, 2] multiply to 256; should be 320 for sample_rate_hz=16000"),
        ({"channels": 24}, "channels=24 are halved 4 times; should be a multiple of 16"),
    ],
)
def test_arguments_that_do_not_fit_are_an_error(changes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        Dac(**numbers(16_000, **changes))
