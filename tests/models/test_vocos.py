"""Vocos: inverse transform, exact length, chunks, exported weights."""

import re
from typing import Any

import pytest
import torch

from miipher2.models.vocoder.registry import build_generator, load_exported_generator
from miipher2.models.vocoder.vocos import MAX_MAGNITUDE, Vocos, overlap_add

RATES = (16_000, 22_050, 24_000, 48_000)


def numbers(rate_hz: int, **changes: Any) -> dict[str, Any]:
    small = {"dim": 6, "channels": 12, "hidden_channels": 20, "blocks": 2, "window_frames": 4}
    return {**small, "sample_rate_hz": rate_hz, **changes}


def new_vocos(rate_hz: int, **changes: Any) -> Vocos:
    """Return a generator whose weights are large enough to make a wave worth comparing."""
    torch.manual_seed(0)
    vocos = Vocos(**numbers(rate_hz, **changes)).eval()
    with torch.no_grad():
        for parameter in vocos.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return vocos


@pytest.mark.parametrize("rate_hz", RATES)
def test_wave_is_exactly_as_long_as_its_frames(rate_hz: int) -> None:
    vocos = new_vocos(rate_hz)
    for frames in (1, 2, 7):
        wave = vocos(torch.randn(2, frames, 6))
        assert wave.shape == (2, frames * rate_hz // 50)
        assert wave.isfinite().all()


@pytest.mark.parametrize("rate_hz", RATES)
def test_chunks_with_context_equal_the_whole(rate_hz: int) -> None:
    vocos = new_vocos(rate_hz)
    hop, context = vocos.hop_samples, vocos.context_frames
    features = torch.randn(1, 50, 6)
    with torch.no_grad():
        whole, chunks = vocos(features), []
        for start in range(0, 50, 10):
            low, high = max(start - context, 0), min(start + 10 + context, 50)
            chunks.append(vocos(features[:, low:high])[:, (start - low) * hop : (start - low + 10) * hop])
    assert whole.std() > 0.01
    torch.testing.assert_close(torch.cat(chunks, 1), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rate_hz", RATES)
@pytest.mark.parametrize("window_frames", [2, 4])
def test_context_covers_every_frame_that_affects_a_sample(rate_hz: int, window_frames: int) -> None:
    vocos = new_vocos(rate_hz, window_frames=window_frames).double()
    middle, hop = 25, vocos.hop_samples
    features = torch.randn(1, 51, 6, dtype=torch.float64, requires_grad=True)
    vocos(features)[0, middle * hop : (middle + 1) * hop].square().sum().backward()
    assert features.grad is not None
    affected = features.grad[0].abs().sum(-1).nonzero().squeeze(1)
    assert max(middle - affected.min().item(), affected.max().item() - middle) == vocos.context_frames


@pytest.mark.parametrize("rate_hz", RATES)
def test_inverse_transform_restores_a_wave_from_its_spectrum(rate_hz: int) -> None:
    """The spectrum of a wave, taken with the window and hop of the generator, becomes the wave again."""
    vocos, frames = new_vocos(rate_hz), 9
    wave = torch.randn(2, frames * vocos.hop_samples)
    side = vocos.window_samples - vocos.hop_samples
    padded = torch.nn.functional.pad(wave, (side // 2, side - side // 2))
    spectrum = torch.fft.rfft(padded.unfold(-1, vocos.window_samples, vocos.hop_samples) * vocos.window)
    torch.testing.assert_close(
        vocos.overlap_add(torch.fft.irfft(spectrum, n=vocos.window_samples)), wave, atol=1e-4, rtol=0
    )


def test_inverse_transform_is_that_of_torch() -> None:
    """torch.istft with a centred window, cut to the frames whose windows are whole there."""
    vocos = new_vocos(24_000)
    spectrum = torch.randn(1, 12, vocos.window_samples // 2 + 1, dtype=torch.complex64)
    spectrum[..., 0], spectrum[..., -1] = spectrum[..., 0].real, spectrum[..., -1].real
    expected = torch.istft(spectrum.mT, vocos.window_samples, vocos.hop_samples, window=vocos.window)
    ours = vocos.overlap_add(torch.fft.irfft(spectrum, n=vocos.window_samples))
    # Theirs begins half a window into the first frame, ours one and a half hops.
    shift = vocos.window_samples // 2 - (vocos.window_samples - vocos.hop_samples) // 2
    torch.testing.assert_close(ours[:, shift : shift + expected.shape[1]], expected, atol=1e-5, rtol=1e-4)


def test_overlap_add_is_fold() -> None:
    pieces = torch.randn(2, 7, 12, requires_grad=True)
    expected = torch.nn.functional.fold(pieces.mT, (1, 7 * 3 + 9), (1, 12), stride=(1, 3)).flatten(1)
    added = overlap_add(pieces, 3)
    torch.testing.assert_close(added, expected)
    weights = torch.randn_like(added)
    torch.testing.assert_close(*(torch.autograd.grad((wave * weights).sum(), pieces)[0] for wave in (added, expected)))


def test_magnitudes_are_bounded_and_their_gradient_stays_finite() -> None:
    vocos = new_vocos(16_000)
    torch.nn.init.constant_(vocos.last.bias, 500.0)
    wave = vocos(torch.randn(1, 4, 6))
    assert wave.abs().max() < 2 * MAX_MAGNITUDE
    wave.square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in vocos.parameters() if parameter.grad is not None)


def test_phase_and_magnitude_are_float32_under_autocast() -> None:
    vocos, features = new_vocos(24_000), torch.randn(1, 20, 6)
    with torch.no_grad():
        expected = vocos(features)
        with torch.autocast("cpu", torch.bfloat16):
            actual = vocos(features)
    assert actual.dtype == torch.float32
    assert (actual - expected).norm() < 0.1 * expected.norm()


def test_exported_weights_give_the_same_wave_and_stay_trainable() -> None:
    source, features = new_vocos(16_000), torch.randn(1, 5, 6)
    exported = source.exported_state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in exported.items()} == {
        name: tuple(tensor.shape) for name, tensor in source.named_parameters()
    }
    assert torch.equal(load_exported_generator(exported, kind="vocos", **numbers(16_000))(features), source(features))
    again = Vocos(**numbers(16_000))
    again.load_exported_state_dict(exported)
    assert torch.equal(again(features), source(features))
    again(features).square().mean().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())
    with pytest.raises(ValueError, match=r"last\.bias is missing"):
        again.load_exported_state_dict({name: tensor for name, tensor in exported.items() if name != "last.bias"})


def test_full_size_has_the_parameters_of_the_paper_at_fifty_frames() -> None:
    """8 blocks of 512 and 1536, as in the paper: 13.5 million parameters there, more here by the wider first layer."""
    with torch.device("meta"):
        vocos = build_generator(
            kind="vocos", dim=768, sample_rate_hz=24_000, channels=512, hidden_channels=1536, blocks=8, window_frames=4
        )
    assert round(sum(parameter.numel() for parameter in vocos.parameters()) / 1e6, 1) == 16.4
    assert vocos.context_frames == 3 * 9 + 2
    assert vocos.window_samples == 1920


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"window_frames": 1}, "window_frames=1 are 320 samples at sample_rate_hz=16000; should be 2 frames or more"),
        ({"sample_rate_hz": 22_050, "window_frames": 3}, "window_frames=3 are 1323 samples"),
        ({"sample_rate_hz": 16_010}, "sample_rate_hz=16010; should be a multiple of 50"),
        ({"kind": "wavefit"}, "model.generator.kind=wavefit: should be one of hifigan, conformer_hifigan, vocos"),
    ],
)
def test_arguments_that_do_not_fit_are_an_error(changes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        build_generator(**{"kind": "vocos", **numbers(16_000), **changes})
