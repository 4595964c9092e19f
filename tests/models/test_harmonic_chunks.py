"""Chunks of the harmonic generator, synthesised in any order, continue each other."""

import math
from collections.abc import Iterator

import pytest
import torch
from tiny_harmonic import DIM, RATES, new_harmonic
from torch import Tensor

from miipher2.models.vocoder.generator import ChunkPosition
from miipher2.models.vocoder.harmonic_vocos import HarmonicVocos, Pitch, frame_phases
from miipher2.models.vocoder.pitch import MAX_PITCH_HZ, MIN_PITCH_HZ


def slow(frames: int) -> Tensor:
    """Return features that change slowly, so that voiced frames follow each other."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(1, DIM, frames // 10 + 2, generator=generator)
    return 2 * torch.nn.functional.interpolate(coarse, frames, mode="linear").mT


def chunks(generator: HarmonicVocos, features: Tensor, length: int) -> Iterator[tuple[Tensor, int, float, slice]]:
    """Yield chunks: features with context, first frame, its phase, and the samples to keep."""
    context, hop, frames, phase, tracked = generator.context_frames, generator.hop_samples, features.shape[1], 0.0, 0
    for start in range(0, frames, length):
        low, high = max(start - context, 0), min(start + length + context, frames)
        phase, tracked = generator.advance_phase(features[0, tracked : low + 1], phase), low
        yield features[:, low:high], low, phase, slice((start - low) * hop, (start - low + length) * hop)


def whole_and_joined(generator: HarmonicVocos, features: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the wave synthesised at once, and in chunks from the last to the first."""
    with torch.no_grad():
        waves = {}
        for chunk, first, phase, kept in reversed(list(chunks(generator, features, length))):
            waves[first, kept.start] = generator.forward_chunk(
                chunk, ChunkPosition(torch.tensor([first]), torch.tensor([phase]))
            )[:, kept]
        return generator(features), torch.cat([waves[key] for key in sorted(waves)], 1)


def snr_db(actual: Tensor, expected: Tensor) -> float:
    """Return the level of the wave over that of the error."""
    assert expected.std() > 0.01
    return float(20 * (expected.norm() / (actual - expected).norm()).log10())


def exact_pitch(features: Tensor) -> Pitch:
    """Return a pitch that is rounded the same in any chunk, since nothing is summed."""
    return Pitch((200 + 60 * features[..., 0]).clamp(MIN_PITCH_HZ, MAX_PITCH_HZ), features[..., 1] > -1)


@pytest.mark.parametrize("envelope_mels", [None, 20])
@pytest.mark.parametrize(("rate_hz", "frames"), [*((rate_hz, 120) for rate_hz in RATES), (16_000, 2_000)])
def test_chunks_in_any_order_equal_the_whole(
    rate_hz: int, frames: int, envelope_mels: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, features = new_harmonic(rate_hz, envelope_mels=envelope_mels), slow(frames)
    monkeypatch.setattr(generator, "predict_pitch", exact_pitch)
    pitch = generator.predict_pitch(features)
    assert 0.4 < pitch.is_voiced.float().mean() < 0.9
    assert pitch.frequency_hz[pitch.is_voiced].log2().std() > 0.2
    whole, joined = whole_and_joined(generator, features, 10)
    torch.testing.assert_close(joined / whole.abs().max(), whole / whole.abs().max(), atol=1e-5, rtol=1e-4)
    assert snr_db(joined, whole) > 100


@pytest.mark.parametrize("bias", [0.0, 20.0], ids=["varying", "always voiced"])
def test_chunks_at_the_predicted_pitch_equal_the_whole(bias: float) -> None:
    """The pitch is rounded differently in chunks of other lengths, which adds up while frames are voiced."""
    generator, features = new_harmonic(16_000), slow(2_000)
    with torch.no_grad():
        generator.pitch_last.bias[-1] += bias
    pitch = generator.predict_pitch(features)
    assert (pitch.is_voiced.float().mean() > 0.9) == (bias > 0)
    assert pitch.frequency_hz[pitch.is_voiced].log2().std() > 0.2
    whole, joined = whole_and_joined(generator, features, 10)
    assert snr_db(joined, whole) > 100


def test_chunks_at_a_wrong_position_are_another_wave() -> None:
    """Otherwise the tests above would prove nothing."""
    generator, features = new_harmonic(16_000), slow(120)
    torch.nn.init.constant_(generator.pitch_last.bias, 20.0)  # all voiced
    with torch.no_grad():
        here = generator(features)[:, 60 * 320 :]
        chunk, first, phase, kept = list(chunks(generator, features, 60))[1]
        frame = torch.tensor([first])
        assert snr_db(generator.forward_chunk(chunk, ChunkPosition(frame, torch.tensor([phase])))[:, kept], here) > 60
        for position in (
            ChunkPosition(frame, torch.tensor([phase + 0.3])),
            ChunkPosition(frame + 1, torch.tensor([phase])),
        ):
            assert snr_db(generator.forward_chunk(chunk, position)[:, kept], here) < 40


def test_a_batch_may_hold_chunks_of_different_positions() -> None:
    generator = new_harmonic(16_000)
    features, frame, phase = torch.randn(2, 30, DIM), torch.tensor([7, 900]), torch.tensor([0.2, 0.7])
    with torch.no_grad():
        both = generator.forward_chunk(features, ChunkPosition(frame, phase))
        for row in range(2):
            alone = generator.forward_chunk(
                features[row : row + 1], ChunkPosition(frame[row : row + 1], phase[row : row + 1])
            )
            assert snr_db(both[row : row + 1], alone) > 80


def test_phase_is_exact_after_an_hour() -> None:
    """In float32 a million cycles have a resolution of six hundredths."""
    frequency = 60 + 400 * torch.rand(180_000, generator=torch.Generator().manual_seed(0))
    start = torch.tensor([0.25], dtype=torch.float64)
    phases = frame_phases(Pitch(frequency, torch.ones(180_000, dtype=torch.bool)), start)
    values = frequency.double().tolist()
    exact = math.fsum([*values, *values[1:-1]]) / 100 + 0.25
    assert exact > 500_000
    assert abs((float(phases[-1]) - exact + 0.5) % 1 - 0.5) < 1e-6


def test_unvoiced_frames_reset_the_phase() -> None:
    voiced = torch.tensor([True, True, False, False, True, True])
    phase = frame_phases(Pitch(torch.full((6,), 110.0), voiced), torch.tensor([0.5], dtype=torch.float64))
    torch.testing.assert_close(phase, torch.tensor([0.5, 0.7, 0, 0, 0.2, 0.4], dtype=torch.float64))


@pytest.mark.parametrize("rate_hz", RATES)
def test_context_covers_every_frame_that_affects_a_sample(rate_hz: int) -> None:
    """The filters reach one frame less: pulses and noise of the second neighbour pass through the first's."""
    generator, middle = new_harmonic(rate_hz), 25
    hop = generator.hop_samples
    features = torch.randn(1, 51, DIM, requires_grad=True)
    generator(features)[0, middle * hop : (middle + 1) * hop].square().sum().backward()
    assert features.grad is not None
    affected = features.grad[0].abs().sum(-1).nonzero().squeeze(1)
    assert max(middle - affected.min().item(), affected.max().item() - middle) == generator.context_frames - 1
