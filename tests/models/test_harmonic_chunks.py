"""The harmonic generator in chunks: made in any order, each goes on where the one before it ends."""

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
    """Return features that change slowly, so that some frames on end are voiced."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(1, DIM, frames // 10 + 2, generator=generator)
    return 2 * torch.nn.functional.interpolate(coarse, frames, mode="linear").mT


def chunks(generator: HarmonicVocos, features: Tensor, length: int) -> Iterator[tuple[Tensor, int, float, slice]]:
    """Yield the chunks of a whole number of them: features with a halo, first frame, its cycles, and what to keep."""
    halo, hop, frames, cycles, followed = generator.context_frames, generator.hop_samples, features.shape[1], 0.0, 0
    for start in range(0, frames, length):
        low, high = max(start - halo, 0), min(start + length + halo, frames)
        cycles, followed = generator.advance_phase(features[0, followed : low + 1], cycles), low
        yield features[:, low:high], low, cycles, slice((start - low) * hop, (start - low + length) * hop)


def whole_and_joined(generator: HarmonicVocos, features: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Return the wave made at once, and that of chunks made from the last to the first."""
    with torch.no_grad():
        made = {}
        for chunk, first, cycles, kept in reversed(list(chunks(generator, features, length))):
            made[first, kept.start] = generator.forward_chunk(
                chunk, ChunkPosition(torch.tensor([first]), torch.tensor([cycles]))
            )[:, kept]
        return generator(features), torch.cat([made[key] for key in sorted(made)], 1)


def below_db(found: Tensor, expected: Tensor) -> float:
    """Return by how much the error is quieter than the wave."""
    assert expected.std() > 0.01
    return float(20 * (expected.norm() / (found - expected).norm()).log10())


def exact_pitch(features: Tensor) -> Pitch:
    """A pitch that is not rounded otherwise in a chunk, since nothing is summed."""
    return Pitch((200 + 60 * features[..., 0]).clamp(MIN_PITCH_HZ, MAX_PITCH_HZ), features[..., 1] > -1)


@pytest.mark.parametrize(("rate_hz", "frames"), [*((rate_hz, 120) for rate_hz in RATES), (16_000, 2_000)])
def test_chunks_in_any_order_equal_the_whole(rate_hz: int, frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, features = new_harmonic(rate_hz), slow(frames)
    monkeypatch.setattr(generator, "predict_pitch", exact_pitch)
    pitch = generator.predict_pitch(features)
    assert 0.4 < pitch.is_voiced.float().mean() < 0.9
    assert pitch.frequency_hz[pitch.is_voiced].log2().std() > 0.2
    whole, joined = whole_and_joined(generator, features, 10)
    torch.testing.assert_close(joined / whole.abs().max(), whole / whole.abs().max(), atol=1e-5, rtol=1e-4)
    assert below_db(joined, whole) > 100


@pytest.mark.parametrize("bias", [0.0, 20.0], ids=["varying", "always voiced"])
def test_chunks_at_the_features_own_pitch_equal_the_whole(bias: float) -> None:
    """The pitch is rounded otherwise in a chunk of another length, and that adds up while all is voiced."""
    generator, features = new_harmonic(16_000), slow(2_000)
    with torch.no_grad():
        generator.pitch_last.bias[-1] += bias
    pitch = generator.predict_pitch(features)
    assert (pitch.is_voiced.float().mean() > 0.9) == (bias > 0)
    assert pitch.frequency_hz[pitch.is_voiced].log2().std() > 0.2
    whole, joined = whole_and_joined(generator, features, 10)
    assert below_db(joined, whole) > 100


def test_chunks_that_do_not_know_their_place_are_another_wave() -> None:
    """Else the tests above would prove nothing."""
    generator, features = new_harmonic(16_000), slow(120)
    torch.nn.init.constant_(generator.pitch_last.bias, 20.0)  # all voiced
    with torch.no_grad():
        here = generator(features)[:, 60 * 320 :]
        chunk, first, cycles, kept = list(chunks(generator, features, 60))[1]
        frame = torch.tensor([first])
        assert (
            below_db(generator.forward_chunk(chunk, ChunkPosition(frame, torch.tensor([cycles])))[:, kept], here) > 60
        )
        for place in (
            ChunkPosition(frame, torch.tensor([cycles + 0.3])),
            ChunkPosition(frame + 1, torch.tensor([cycles])),
        ):
            assert below_db(generator.forward_chunk(chunk, place)[:, kept], here) < 40


def test_one_batch_holds_chunks_of_different_places() -> None:
    generator = new_harmonic(16_000)
    features, frame, cycles = torch.randn(2, 30, DIM), torch.tensor([7, 900]), torch.tensor([0.2, 0.7])
    with torch.no_grad():
        both = generator.forward_chunk(features, ChunkPosition(frame, cycles))
        for row in range(2):
            alone = generator.forward_chunk(
                features[row : row + 1], ChunkPosition(frame[row : row + 1], cycles[row : row + 1])
            )
            assert below_db(both[row : row + 1], alone) > 80


def test_phase_is_exact_after_an_hour() -> None:
    """In float32 a million cycles would leave six hundredths of one."""
    frequency = 60 + 400 * torch.rand(180_000, generator=torch.Generator().manual_seed(0))
    start = torch.tensor([0.25], dtype=torch.float64)
    found = frame_phases(Pitch(frequency, torch.ones(180_000, dtype=torch.bool)), start)
    values = frequency.double().tolist()
    exact = math.fsum([*values, *values[1:-1]]) / 100 + 0.25
    assert exact > 500_000
    assert abs((float(found[-1]) - exact + 0.5) % 1 - 0.5) < 1e-6


def test_pulses_start_anew_wherever_nothing_is_voiced() -> None:
    voiced = torch.tensor([True, True, False, False, True, True])
    cycles = frame_phases(Pitch(torch.full((6,), 110.0), voiced), torch.tensor([0.5], dtype=torch.float64))
    torch.testing.assert_close(cycles, torch.tensor([0.5, 0.7, 0, 0, 0.2, 0.4], dtype=torch.float64))


@pytest.mark.parametrize("rate_hz", RATES)
def test_halo_is_what_a_frame_sees(rate_hz: int) -> None:
    """The filters of one frame fewer: pulses and noise of the second neighbour are heard through the first's."""
    generator, middle = new_harmonic(rate_hz), 25
    hop = generator.hop_samples
    features = torch.randn(1, 51, DIM, requires_grad=True)
    generator(features)[0, middle * hop : (middle + 1) * hop].square().sum().backward()
    assert features.grad is not None
    seen = features.grad[0].abs().sum(-1).nonzero().squeeze(1)
    assert max(middle - seen.min().item(), seen.max().item() - middle) == generator.context_frames - 1
