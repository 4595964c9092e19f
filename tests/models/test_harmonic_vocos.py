"""The harmonic generator: exact length, pulses and noise, training of the pitch, exported weights."""

import math
import re

import pytest
import torch
from tiny_harmonic import DIM, RATES, new_harmonic, numbers

from miipher2.audio.spectrogram import mel_filters
from miipher2.models.vocoder.generator import ChunkPosition, FitExample
from miipher2.models.vocoder.harmonic_vocos import MAX_HARMONIC, MAX_LOG_GAIN, NOISE_FRAMES, HarmonicVocos, Pitch
from miipher2.models.vocoder.pitch import MAX_PITCH_HZ, MIN_PITCH_HZ, estimate_pitch
from miipher2.models.vocoder.registry import build_generator, load_exported_generator


@pytest.mark.parametrize("rate_hz", RATES)
def test_wave_is_exactly_as_long_as_its_frames(rate_hz: int) -> None:
    generator = new_harmonic(rate_hz)
    for frames in (1, 2, 7):
        wave = generator(torch.randn(2, frames, DIM))
        assert wave.shape == (2, frames * rate_hz // 50)
        assert wave.isfinite().all()


@pytest.mark.parametrize("rate_hz", RATES)
@pytest.mark.parametrize("hz", [60, 175, 500])
def test_pulses_are_equal_harmonics_of_the_pitch_and_nothing_else(rate_hz: int, hz: int) -> None:
    generator = new_harmonic(rate_hz)
    pitch = Pitch(torch.full((1, 50), float(hz)), torch.ones(1, 50, dtype=torch.bool))
    pulses = generator._pulses(pitch, torch.zeros(1))[0].double()
    assert abs(float(pulses.square().mean()) - 1) < 1e-3
    spectrum = torch.fft.rfft(pulses).abs() * 2 / len(pulses)  # of one second: bins of 1 Hz
    count = int(MAX_HARMONIC * rate_hz / 2 / hz)
    harmonics = torch.arange(1, count + 1) * hz
    torch.testing.assert_close(
        spectrum[harmonics], torch.full_like(spectrum[harmonics], math.sqrt(2 / count)), rtol=1e-3, atol=0
    )
    spectrum[harmonics] = 0
    assert spectrum.max() < 1e-4 * math.sqrt(2 / count)


def test_pulses_follow_a_changing_pitch() -> None:
    generator, frequency = new_harmonic(24_000), torch.logspace(2, 2.5, 100)[None]
    pulses = generator._pulses(Pitch(frequency, torch.ones(1, 100, dtype=torch.bool)), torch.zeros(1))
    estimated, is_voiced = estimate_pitch(pulses, 24_000)
    assert is_voiced[:, 5:-5].all()
    assert ((estimated / frequency).log2().abs() * 1200)[:, 5:-5].max() < 10


def test_noise_continues_across_chunks_and_repeats() -> None:
    generator = new_harmonic(16_000)
    noise = generator._noise(torch.tensor([0]), NOISE_FRAMES + 2)
    for first in (5, NOISE_FRAMES - 1, NOISE_FRAMES + 1):
        expected = noise[:, first % NOISE_FRAMES * 320 :][:, : 3 * 320]
        assert torch.equal(generator._noise(torch.tensor([first]), 3)[:, : expected.shape[1]], expected)
    assert abs(float(noise.std()) - 1) < 0.01
    assert torch.equal(HarmonicVocos(**numbers(16_000)).noise, generator.noise)  # not drawn by the global chance


def test_pitch_training_approaches_the_minimal_loss() -> None:
    """The minimum is the entropy of the target, a bell one bin wide, once voicing is certain."""
    generator, features = new_harmonic(16_000), torch.randn(1, 12, DIM)
    pitch = Pitch(torch.logspace(math.log10(80), math.log10(400), 12)[None], torch.arange(12)[None] % 3 > 0)
    optimizer = torch.optim.Adam(generator.parameters(), 0.05)
    for _ in range(300):
        optimizer.zero_grad()
        loss = generator.pitch_loss(features, pitch)
        loss.backward()
        optimizer.step()
    least = 0.5 * math.log(2 * math.pi * math.e)
    assert least - 0.01 < float(loss.detach()) < least + 0.1
    trained = {name for name, parameter in generator.named_parameters() if parameter.grad is not None}
    assert trained == {f"pitch_{part}.{kind}" for part in ("hidden", "last") for kind in ("weight", "bias")}
    predicted = generator.predict_pitch(features)
    assert torch.equal(predicted.is_voiced, pitch.is_voiced)
    assert ((predicted.frequency_hz / pitch.frequency_hz).log2().abs() * 1200)[pitch.is_voiced].max() < 10


def test_the_wave_trains_everything_but_the_pitch() -> None:
    generator = new_harmonic(16_000)
    generator(torch.randn(1, 5, DIM)).square().mean().backward()
    for name, parameter in generator.named_parameters():
        assert (parameter.grad is None) == name.startswith("pitch_"), name


def test_predicted_pitch_stays_in_the_trained_range() -> None:
    generator = new_harmonic(16_000)
    pitch = generator.predict_pitch(100 * torch.randn(1, 500, DIM))
    assert MIN_PITCH_HZ * 0.999 <= pitch.frequency_hz.min() <= pitch.frequency_hz.max() <= MAX_PITCH_HZ * 1.001


def test_training_waves_have_the_target_pitch() -> None:
    generator, features, first = new_harmonic(16_000), torch.randn(2, 25, DIM), torch.tensor([3, 77])
    time = torch.arange(25 * 320) / 16_000
    tones = [torch.sin(2 * math.pi * torch.tensor([[150.0], [210.0]]) * k * time) for k in range(1, 8)]
    wave = torch.stack(tones).sum(0) / 20
    output, loss = generator.training_forward(features, wave, first)
    pitch, place = Pitch(*estimate_pitch(wave, 16_000)), ChunkPosition(first, torch.zeros(2))
    assert torch.equal(output, generator(features, place, pitch))
    assert torch.equal(loss, generator.pitch_loss(features, pitch))
    assert not torch.equal(output, generator.forward_chunk(features, place))
    torch.nn.init.zeros_(generator.pitch_last.weight)
    assert torch.equal(generator.training_forward(features, wave, first)[0], output)
    assert not torch.equal(generator.training_forward(features, wave, first + 1)[0], output)


def test_gains_are_bounded_and_gradients_stay_finite() -> None:
    generator = new_harmonic(16_000)
    for bias in (-500.0, 500.0):
        torch.nn.init.constant_(generator.last.bias, bias)
        generator.zero_grad()
        wave = generator(torch.randn(1, 4, DIM))
        # Peaks of pulses and noise each pass a filter whose every bin is at its bound.
        assert wave.abs().max() < 50 * math.exp(MAX_LOG_GAIN)
        wave.square().mean().backward()
        assert all(part.grad.isfinite().all() for part in generator.parameters() if part.grad is not None)


def test_pitch_and_phase_are_float32_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, features = new_harmonic(24_000), torch.randn(1, 20, DIM)
    pulses, pitches = generator._pulses, []
    monkeypatch.setattr(generator, "_pulses", lambda pitch, cycles: pitches.append(pitch) or pulses(pitch, cycles))
    with torch.no_grad():
        expected = generator(features)
        with torch.autocast("cpu", torch.bfloat16):
            actual = generator(features)
    assert actual.dtype == torch.float32
    assert torch.equal(pitches[0].frequency_hz, pitches[1].frequency_hz)
    assert torch.equal(pitches[0].is_voiced, pitches[1].is_voiced)
    assert 0 < (actual - expected).norm() < 0.1 * expected.norm()


def test_exported_weights_give_the_same_wave_and_stay_trainable() -> None:
    source, features = new_harmonic(16_000), torch.randn(1, 5, DIM)
    exported = source.exported_state_dict()
    assert set(exported) == {name for name, _ in source.named_parameters()}  # neither window nor noise
    again = load_exported_generator(exported, kind="harmonic_vocos", **numbers(16_000))
    assert torch.equal(again(features), source(features))
    trained = HarmonicVocos(**numbers(16_000))
    trained.load_exported_state_dict(exported)
    output, loss = trained.training_forward(features, torch.randn(1, 5 * 320), torch.tensor([0]))
    (output.square().mean() + loss).backward()
    assert all(parameter.grad is not None for parameter in trained.parameters())


def shaped_noise(rate_hz: int, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two recordings of noise whose level and slope vary, and features that say how, and more."""
    chance = torch.Generator().manual_seed(0)
    level, tilt = (
        torch.nn.functional.interpolate(torch.randn(2, 1, frames // 10, generator=chance), frames, mode="linear")[:, 0]
        for _ in range(2)
    )
    samples = frames * rate_hz // 50
    noise = torch.randn(2, samples, generator=chance)
    smooth = 0.5 * (noise + noise.roll(1, 1))
    level, mix = (each.repeat_interleave(rate_hz // 50, 1) for each in (level, tilt.sigmoid()))
    wave = 0.03 * level.exp() * (mix * noise + (1 - mix) * smooth)
    features = torch.stack([level[:, :: rate_hz // 50], tilt], -1)
    return torch.cat([features, torch.randn(2, frames, DIM - 2, generator=chance)], -1), wave


@pytest.mark.parametrize("rate_hz", RATES)
def test_fitted_envelope_gives_noise_the_level_and_spectrum_of_the_target(rate_hz: int) -> None:
    torch.manual_seed(0)
    generator = HarmonicVocos(**numbers(rate_hz, envelope_mels=20)).eval()
    features, wave = shaped_noise(rate_hz, 200)
    valid = torch.ones(2, 200, dtype=torch.bool)
    valid[1, 150:] = False
    broken = wave.clone()
    broken[1, 151 * rate_hz // 50 :] = 1e3  # not valid, so that it must not count
    generator.fit([FitExample(features, broken, valid)])
    predicted, measured = generator.predict_envelope(features), generator._measure_envelope(wave)
    assert float((measured - measured.mean((0, 1))).abs().mean()) > 0.5
    assert float((predicted.detach() - measured).abs().mean()) < 0.3  # most of it is the chance of the noise itself
    torch.nn.init.zeros_(generator.last.weight)
    torch.nn.init.zeros_(generator.last.bias)
    generator.last.bias.data.view(2, 3, -1)[:, 0] = -50  # no pulses: what is left is noise through the envelope
    again = generator._measure_envelope(generator(features))
    assert abs(float((again - measured).mean())) < 0.1
    assert float((again - measured).mean((0, 1)).abs().max()) < 0.3


def test_fit_on_frames_that_are_all_alike_stays_finite() -> None:
    generator = HarmonicVocos(**numbers(16_000, envelope_mels=20))
    generator.fit([FitExample(torch.zeros(1, 9, DIM), torch.zeros(1, 9 * 320), torch.ones(1, 9, dtype=torch.bool))])
    assert generator.predict_envelope(torch.randn(1, 3, DIM)).isfinite().all()


def test_training_may_take_the_predicted_pitch_and_learns_the_envelope() -> None:
    generator = HarmonicVocos(**numbers(16_000, envelope_mels=20))
    features, wave = shaped_noise(16_000, 40)
    first = torch.tensor([3, 77])
    output, loss = generator.training_forward(features, wave, first, predicted_pitch=True)
    assert torch.equal(output, generator.forward_chunk(features, ChunkPosition(first, torch.zeros(2))))
    assert not torch.equal(output, generator.training_forward(features, wave, first)[0])
    loss.backward()
    assert generator.envelope.weight.grad.abs().max() > 0


@pytest.mark.parametrize("rate_hz", RATES)
def test_bands_are_those_of_the_losses(rate_hz: int) -> None:
    generator = HarmonicVocos(**numbers(rate_hz, envelope_mels=80))
    bands = mel_filters(rate_hz, generator.window_samples)
    torch.testing.assert_close(generator.mel_average, bands / bands.sum(0), atol=1e-5, rtol=1e-4)
    # A straight line over the middles of the bands is one over the bins between the first and the last.
    middles = torch.arange(len(bands)).float() @ generator.mel_average
    line = middles @ generator.mel_interpolation
    bins = torch.arange(len(bands)).float().clamp(middles[0], middles[-1])
    torch.testing.assert_close(line, bins, atol=1e-2, rtol=1e-4)


def test_too_many_bands_are_refused() -> None:
    with pytest.raises(ValueError, match="envelope_mels=400; should be fewer"):
        HarmonicVocos(**numbers(16_000, envelope_mels=400))


@pytest.mark.parametrize("envelope_mels", [None, 80])
def test_it_can_be_built_on_the_meta_device(envelope_mels: int | None) -> None:
    with torch.device("meta"):
        generator = build_generator(
            kind="harmonic_vocos",
            **numbers(24_000, channels=256, hidden_channels=768, blocks=6, envelope_mels=envelope_mels),
        )
    assert generator.last.weight.is_meta
    assert generator.context_frames == 3 * 7 + 2


@pytest.mark.parametrize(
    ("rate_hz", "text"),
    [
        (22_050, "sample_rate_hz=22050; should be a multiple of 100, for two filters a frame"),
        (16_010, "sample_rate_hz=16010; should be a multiple of 50"),
    ],
)
def test_a_wrong_sample_rate_is_an_error(rate_hz: int, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        build_generator(kind="harmonic_vocos", **numbers(rate_hz))
