"""A harmonic Vocos: pulses at the pitch and noise, each through filters that ConvNeXt blocks make of the features."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from miipher2.config.schema_data import FRAMES_PER_SECOND
from miipher2.models.encoder.logmel_frontend import triangular_bands
from miipher2.models.vocoder.generator import ChunkPosition, FitExample
from miipher2.models.vocoder.pitch import MAX_PITCH_HZ, MIN_PITCH_HZ, estimate_pitch
from miipher2.models.vocoder.vocos import ConvNextGenerator, windowed_overlap_add

STEPS = 2  # filters per frame: one every 10 ms
WINDOW_STEPS = 4  # length of the filters' windows
PITCH_BINS = 96  # about 38 cents each
NOISE_FRAMES = 1499  # half a minute; then the noise repeats
MAX_LOG_GAIN = 5.0  # keeps the exponential from exploding
MAX_HARMONIC = 0.95  # highest harmonic, relative to half the sample rate
RIDGE = 1e-3  # of the regression that the envelope starts from, relative to the number of frames
MIN_MAGNITUDE = 1e-5  # of a band in the envelope
ENVELOPE_WEIGHT = 10.0  # of the envelope's loss, beside that of the pitch


@dataclass(frozen=True)
class Pitch:
    """The fundamental frequency of each frame, and whether it is voiced; unvoiced frames reset the phase."""

    frequency_hz: Float[Tensor, "*batch frame"]
    is_voiced: Bool[Tensor, "*batch frame"]


class HarmonicVocos(ConvNextGenerator):
    """A Vocos with a harmonic source: pulses supply the harmonics that a small network would have to learn.

    Each frame's pitch is predicted from its own features (by a perceptron trained on `estimate_pitch`). So the phase of
    a recording can be tracked without synthesising it, and chunks can be synthesised in any order.

    Args:
        sample_rate_hz: a multiple of 100. The other arguments are those of `ConvNextGenerator`.
        envelope_mels: mel bands of a spectral envelope that a linear layer, which starts from a ridge regression,
            predicts from each frame's features, and that the blocks only correct; None: they make the whole filters.

    Raises:
        ValueError: the sample rate is not a multiple of 100 Hz, or there are too many `envelope_mels`.

    Source: the blocks and the inverse Fourier transform of Siuzdak 2023, Vocos (arXiv:2306.00814); pulses and noise
    through filters as in Wang et al. 2019, neural source-filter (arXiv:1904.12088), and Engel et al. 2020, DDSP
    (arXiv:2001.04643).
    """

    has_phase = True

    window: Tensor
    noise: Tensor
    pitch_bins_hz: Tensor
    envelope_window: Tensor
    mel_average: Tensor
    mel_interpolation: Tensor

    def __init__(
        self,
        dim: int,
        sample_rate_hz: int,
        channels: int,
        hidden_channels: int,
        blocks: int,
        envelope_mels: int | None = None,
    ) -> None:
        super().__init__(dim, sample_rate_hz, channels, hidden_channels, blocks)
        if sample_rate_hz % (FRAMES_PER_SECOND * STEPS):
            raise ValueError(f"sample_rate_hz={sample_rate_hz}; should be a multiple of 100, for two filters a frame")
        self.step_samples = self.hop_samples // STEPS
        self.window_samples = WINDOW_STEPS * self.step_samples
        self.bins = self.window_samples // 2 + 1
        self.last = nn.Linear(channels, STEPS * 3 * self.bins)
        self.pitch_hidden = nn.Linear(dim, channels)
        self.pitch_last = nn.Linear(channels, PITCH_BINS + 1)
        self.envelope = nn.Linear(dim, STEPS * envelope_mels) if envelope_mels else None
        self.init_weights()
        self.register_buffer("window", torch.hann_window(self.window_samples), persistent=False)
        noise = torch.randn(NOISE_FRAMES * self.hop_samples, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise.view(NOISE_FRAMES, self.hop_samples), persistent=False)
        octaves = torch.linspace(math.log2(MIN_PITCH_HZ), math.log2(MAX_PITCH_HZ), PITCH_BINS)
        self.register_buffer("pitch_bins_hz", 2**octaves, persistent=False)
        if envelope_mels:
            average, interpolation = _mel_matrices(sample_rate_hz, self.window_samples, envelope_mels)
            self.register_buffer("envelope_window", torch.hann_window(sample_rate_hz // 40), persistent=False)
            self.register_buffer("mel_average", average, persistent=False)
            self.register_buffer("mel_interpolation", interpolation, persistent=False)

    @property
    def context_frames(self) -> int:
        """Return how many neighbouring frames on each side affect a frame's samples."""
        return self.backbone_context_frames + 2

    def forward(
        self,
        features: Float[Tensor, "batch frame dim"],
        position: ChunkPosition | None = None,
        pitch: Pitch | None = None,
    ) -> Float[Tensor, "batch time"]:
        """Return waves of `hop_samples` samples per frame.

        Args:
            position: of the first frame; None: the start of a recording.
            pitch: replaces the predicted pitch, in training.
        """
        hidden = self.backbone(features)
        batch, frames = features.shape[:2]
        if position is None:
            zeros = torch.zeros(batch, device=features.device)
            position = ChunkPosition(zeros.long(), zeros)
        # In float32 under autocast too: a bfloat16 phase would be off by degrees.
        with torch.autocast(features.device.type, enabled=False):
            pitch = pitch or self.predict_pitch(features)
            filters = self.last(self.last_norm(hidden.to(self.last.weight.dtype))).float()
            pulse_gain, noise_gain, phase = filters.view(batch, frames * STEPS, 3, self.bins).unbind(2)
            if self.envelope is not None:
                envelope = self.predict_envelope(features) @ self.mel_interpolation
                pulse_gain, noise_gain = pulse_gain + envelope, noise_gain + envelope
            pulse_gain, noise_gain = (gain.clamp_max(MAX_LOG_GAIN).exp() for gain in (pulse_gain, noise_gain))
            pulses = self._stft(self._pulses(pitch, position.phase_cycles), self.window)
            noise = self._stft(self._noise(position.first_frame, frames), self.window)
            spectra = pulses * torch.polar(pulse_gain, phase) + noise * noise_gain
            segments = torch.fft.irfft(spectra, n=self.window_samples)
            return windowed_overlap_add(segments, self.window, self.step_samples)

    def forward_chunk(
        self, features: Float[Tensor, "batch frame dim"], position: ChunkPosition
    ) -> Float[Tensor, "batch time"]:
        """Return the waves of chunks, whose pulses and noise continue those of the chunks before."""
        return self(features, position)

    def advance_phase(self, features: Float[Tensor, "frame dim"], phase_cycles: float) -> float:
        """Return the phase of the fundamental at the last frame, given that at the first."""
        start = torch.tensor([phase_cycles], dtype=torch.float64, device=features.device)
        return float(frame_phases(self.predict_pitch(features), start)[-1])

    def training_forward(
        self,
        features: Float[Tensor, "batch frame dim"],
        target: Float[Tensor, "batch time"],
        first_frame: Int[Tensor, " batch"],
        predicted_pitch: bool = False,
    ) -> tuple[Float[Tensor, "batch time"], Float[Tensor, ""]]:
        """Return the waves, at the pitch of the target or as in inference, and the loss of pitch and envelope."""
        pitch = Pitch(*estimate_pitch(target, self.sample_rate_hz))
        position = ChunkPosition(first_frame, torch.zeros_like(first_frame, dtype=torch.float32))
        loss = self.pitch_loss(features, pitch)
        if self.envelope is not None:
            difference = self.predict_envelope(features) - self._measure_envelope(target)
            loss = loss + ENVELOPE_WEIGHT * difference.abs().mean()
        return self(features, position, None if predicted_pitch else pitch), loss

    @torch.no_grad()
    def fit(self, examples: Iterable[FitExample]) -> None:
        """Start the envelope from the ridge regression of the examples."""
        if self.envelope is None:
            return
        dim = self.envelope.in_features + 1
        gram = self.window.new_zeros(dim, dim, dtype=torch.float64)
        products = self.window.new_zeros(dim, self.envelope.out_features, dtype=torch.float64)
        frames = 0
        for example in examples:
            rows = F.pad(example.features[example.valid].double(), (0, 1), value=1.0)
            envelope = self._measure_envelope(example.target).view(*example.valid.shape, -1)
            gram += rows.T @ rows
            products += rows.T @ envelope[example.valid].double()
            frames += len(rows)
        gram[:-1, :-1] += RIDGE * frames * torch.eye(dim - 1, dtype=torch.float64, device=gram.device)
        solution = torch.linalg.solve(gram, products).T
        self.envelope.weight.copy_(solution[:, :-1])
        self.envelope.bias.copy_(solution[:, -1])

    def predict_envelope(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch step mel"]:
        """Return the logarithm of each mel band's magnitude relative to noise of power 1, frame by frame."""
        assert self.envelope is not None
        with torch.autocast(features.device.type, enabled=False):
            envelope: Tensor = self.envelope(features.to(self.envelope.weight.dtype)).float()
        return envelope.view(len(features), -1, self.mel_average.shape[1])

    @torch.no_grad()
    def predict_pitch(self, features: Float[Tensor, "*batch frame dim"]) -> Pitch:
        """Return the pitch predicted from the features, frame by frame."""
        logits = self._pitch_logits(features)
        peak, peak_bin = logits[..., :-1].max(-1, keepdim=True)
        bins = torch.arange(PITCH_BINS, device=features.device)
        # In float64: float32 rounding of an octave grows to a thousandth of a cycle of phase after some seconds.
        weights = torch.where((bins - peak_bin).abs() <= 4, (logits[..., :-1] - peak).double().exp(), 0)
        octaves = (weights * self.pitch_bins_hz.double().log2()).sum(-1) / weights.sum(-1)
        return Pitch((2**octaves).float(), logits[..., -1] > 0)

    def pitch_loss(self, features: Float[Tensor, "batch frame dim"], pitch: Pitch) -> Float[Tensor, ""]:
        """Return the cross-entropy of the predicted pitch and voicing."""
        logits = self._pitch_logits(features)
        distance = (self.pitch_bins_hz.log2() - pitch.frequency_hz.log2()[..., None]) * (PITCH_BINS - 1)
        distance = distance / math.log2(MAX_PITCH_HZ / MIN_PITCH_HZ)
        target = (-0.5 * distance.square()).softmax(-1)
        cross_entropy = -(target * logits[..., :-1].log_softmax(-1)).sum(-1)
        is_voiced = pitch.is_voiced.float()
        frequency_loss = (cross_entropy * is_voiced).sum() / is_voiced.sum().clamp_min(1)
        return frequency_loss + F.binary_cross_entropy_with_logits(logits[..., -1], is_voiced)

    def _pitch_logits(self, features: Float[Tensor, "*batch frame dim"]) -> Float[Tensor, "*batch frame logit"]:
        return self.pitch_last(F.gelu(self.pitch_hidden(features.to(self.pitch_hidden.weight.dtype)))).float()

    def _pulses(self, pitch: Pitch, phase_cycles: Float[Tensor, " batch"]) -> Float[Tensor, "batch time"]:
        """Return band-limited pulses of the same power at any pitch."""
        middle = frame_phases(pitch, phase_cycles[:, None].double())
        hop, frequency = self.hop_samples, pitch.frequency_hz
        # The pitch is linear from the middle of a frame to that of the next, and constant beyond the first and last.
        following = torch.cat([frequency[:, 1:], frequency[:, -1:]], 1)
        times = (torch.arange(hop, device=frequency.device) + 0.5) / self.sample_rate_hz
        slope = ((following - frequency) * FRAMES_PER_SECOND)[..., None] / 2
        phase = middle[..., None] + (frequency[..., None] * times + slope * times.square()).double()
        lead = middle[:, :1] - frequency[:, :1].double() * times[: hop // 2].flip(0).double()
        phase = torch.cat([lead, phase.flatten(1)], 1)[:, : frequency.shape[1] * hop]
        phase = (phase - phase.round()).float()  # in cycles, from -1/2 to 1/2
        sample_hz = frequency.repeat_interleave(hop, 1)
        harmonics = (MAX_HARMONIC * self.sample_rate_hz / 2 / sample_hz).floor()
        denominator = torch.sin(math.pi * phase)
        is_peak = denominator.abs() < 1e-4
        sums = torch.sin((2 * harmonics + 1) * math.pi * phase) / denominator.masked_fill(is_peak, 1)
        return (torch.where(is_peak, 2 * harmonics + 1, sums) - 1) / (2 * harmonics).sqrt()

    def _noise(self, first_frame: Int[Tensor, " batch"], frames: int) -> Float[Tensor, "batch time"]:
        numbers = first_frame[:, None] + torch.arange(frames, device=first_frame.device)
        return self.noise[numbers.remainder(NOISE_FRAMES)].flatten(1)

    @torch.no_grad()
    def _measure_envelope(self, wave: Float[Tensor, "batch time"]) -> Float[Tensor, "batch step mel"]:
        with torch.autocast(wave.device.type, enabled=False):
            power = self._stft(wave.float(), self.envelope_window).abs().square()
            power = power / self.envelope_window.square().sum() @ self.mel_average
            return power.sqrt().clamp_min(MIN_MAGNITUDE).log()

    def _stft(self, wave: Float[Tensor, "batch time"], window: Tensor) -> Complex[Tensor, "batch step bin"]:
        """Return the spectrum around the middle of each step."""
        side = (len(window) - self.step_samples) // 2
        segments = F.pad(wave, (side, side)).unfold(-1, len(window), self.step_samples)
        return torch.fft.rfft(segments * window, n=self.window_samples)


def frame_phases(pitch: Pitch, start_cycles: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch frame"]:
    """Return the phase at the middle of each frame, in cycles; it is 0 wherever the frame is unvoiced."""
    frequency = pitch.frequency_hz.double()
    advances = (frequency[..., 1:] + frequency[..., :-1]) / (2 * FRAMES_PER_SECOND)
    total = F.pad(advances.cumsum(-1), (1, 0))
    numbers = torch.arange(total.shape[-1], device=total.device)
    last_reset = torch.where(pitch.is_voiced, -1, numbers).cummax(-1).values
    since_reset = total - total.gather(-1, last_reset.clamp_min(0))
    return torch.where(last_reset < 0, total + start_cycles, since_reset).remainder(1)


def _mel_matrices(
    sample_rate_hz: int, window_samples: int, mels: int
) -> tuple[Float[Tensor, "bin mel"], Float[Tensor, "mel bin"]]:
    """Return what averages bins into mel bands, and what interpolates linearly from the middles of bands to bins.

    The bands are Slaney's, as in `audio.spectrogram`, whose torchaudio takes a second to import.
    """
    highest_hz, log_step = sample_rate_hz / 2, math.log(6.4) / 27
    edges = np.linspace(0, 15 + math.log(highest_hz / 1000) / log_step, mels + 2)
    edges_hz = np.where(edges < 15, edges * 200 / 3, 1000 * np.exp(log_step * (edges - 15)))
    bands = triangular_bands(edges_hz, np.linspace(0, highest_hz, window_samples // 2 + 1))
    if not bands.sum(0).all():
        raise ValueError(f"envelope_mels={mels}; should be fewer: some bands are narrower than a bin")
    average, bins = bands / bands.sum(0), np.arange(len(bands))
    rows = [np.interp(bins, bins @ average, row) for row in np.eye(mels)]
    return torch.from_numpy(average).float(), torch.from_numpy(np.stack(rows)).float()
