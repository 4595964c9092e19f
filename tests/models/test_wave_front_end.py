"""The convolutions in their fast form against transformers' own layers."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from miipher2.models.encoder.conv_frontend import WaveFrontEnd

SHAPES = {
    "as published": ((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)),
    "kernels longer than two strides": ((12, 7, 4, 5), (5, 2, 4, 8)),
    "one that sees several hops": ((400, 9, 3), (20, 4, 4)),
}


def new_front_end(
    shape: str, norm: str = "group", bias: bool = False, normalise: bool = False
) -> tuple[WaveFrontEnd, Any]:
    """Return a front end, and the layers of transformers that it stands for."""
    kernels, strides = SHAPES[shape]
    torch.manual_seed(0)
    config = transformers.HubertConfig(
        conv_kernel=kernels, conv_stride=strides, conv_dim=[24] * len(kernels), feat_extract_norm=norm, conv_bias=bias,
        num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=16,
    )  # fmt: skip
    layers = transformers.HubertModel(config).eval().requires_grad_(False).feature_extractor.conv_layers
    for name, parameter in layers.named_parameters():
        if "layer_norm" in name or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.5)
    return WaveFrontEnd(layers, kernels, strides, normalise), layers


def by_transformers(layers: Any, front_end: WaveFrontEnd, wave: Tensor) -> Tensor:
    """Return the frames of one wave as transformers computes them."""
    hidden = F.pad(wave, front_end.padding)[None, None]
    for layer in layers:
        hidden = layer(hidden)
    return hidden[0].T


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("norm", "bias"), [("group", False), ("layer", True), ("layer", False)])
def test_frames_are_those_of_transformers_alone_and_in_a_padded_batch(shape: str, norm: str, bias: bool) -> None:
    front_end, layers = new_front_end(shape, norm, bias)
    waves = 0.1 * torch.randn(3, 20 * 320) + 0.3  # a constant part, which the first filters let through
    counts = torch.tensor([20, 7, 1])
    for wave, count in zip(waves, counts, strict=True):
        wave[count * 320 :] = 0
    frames = front_end(waves, counts)
    for row, wave, count in zip(frames, waves, counts, strict=True):
        expected = by_transformers(layers, front_end, wave[: count * 320])
        assert expected.shape == (count, 24)
        torch.testing.assert_close(row[:count], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(front_end(waves[:1]), frames[:1], atol=1e-6, rtol=1e-5)


def test_a_filter_that_leaves_next_to_nothing_is_normed_as_exactly() -> None:
    front_end, layers = new_front_end("as published")
    weight = layers[0].conv.weight
    weight -= weight.mean(-1, keepdim=True)  # no channel hears a constant
    wave = 1e-4 * torch.randn(6400, dtype=torch.float64) + 0.5
    with torch.no_grad():
        exact = by_transformers(layers.double(), front_end, wave)
        layers.float()
    torch.testing.assert_close(front_end(wave.float()[None])[0].double(), exact, atol=0.02, rtol=0.02)


def test_autocast_gives_nearly_the_same_frames_in_its_type() -> None:
    front_end, _ = new_front_end("as published")
    waves = 0.1 * torch.randn(2, 6400)
    exact = front_end(waves)
    with torch.autocast("cpu", torch.bfloat16):
        frames = front_end(waves)
    assert frames.dtype == torch.bfloat16
    assert (frames.float() - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_strides_that_do_not_give_fifty_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="a frame every 160 samples; should be 320"):
        WaveFrontEnd(torch.nn.ModuleList(), (10, 3), (5, 32), normalise=False)
