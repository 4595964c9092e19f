"""A harmonic Vocos: pulses at the pitch and noise, each through a filter that ConvNeXt blocks make of the features."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from miipher2.models.vocoder.generator import FRAMES_PER_SECOND, Generator, Place
from miipher2.models.vocoder.pitch import HIGHEST_HZ, LOWEST_HZ, pitch_of
from miipher2.models.vocoder.vocos import KERNEL, ConvNextBlock, overlap_add

STEPS = 2  # filters in a frame: one every 10 ms
WINDOW_STEPS = 4  # the filters' windows are so many steps long
PITCH_BINS = 96  # about 38 cents each
NOISE_FRAMES = 1499  # half a minute; then the noise comes round again
HIGHEST_GAIN = 5.0  # logarithm: keeps the exponential from running away
HIGHEST_HARMONIC = 0.95  # of half the sample rate


@dataclass(frozen=True)
class Pitch:
    """What a frame's pulses follow: their frequency, and whether they start anew, since nothing voiced is heard."""

    frequency_hz: Float[Tensor, "*batch frame"]
    is_voiced: Bool[Tensor, "*batch frame"]


class HarmonicVocos(Generator):
    """Pitch and timbre apart: pulses keep harmonics that a small network would have to learn to draw.

    The pitch is a frame's own (a perceptron on its features, taught by `pitch_of`), so that a recording's phase can be
    followed without making its sound, and chunks can be made in any order.

    Args:
        dim: size of a feature.
        sample_rate_hz: of the wave; a multiple of 100.
        channels: between the blocks.
        hidden_channels: within a block.
        blocks: number of ConvNeXt blocks.

    Raises:
        ValueError: the sample rate is no multiple of 100 Hz.

    Source: the blocks and the inverse Fourier transform of Siuzdak 2023, Vocos (arXiv:2306.00814); pulses and noise
    through filters as Wang et al. 2019, neural source-filter (arXiv:1904.12088), and Engel et al. 2020, DDSP
    (arXiv:2001.04643).
    """

    window: Tensor
    noise: Tensor
    pitches_hz: Tensor

    def __init__(self, dim: int, sample_rate_hz: int, channels: int, hidden_channels: int, blocks: int) -> None:
        super().__init__(sample_rate_hz)
        if sample_rate_hz % (FRAMES_PER_SECOND * STEPS):
            raise ValueError(f"sample_rate_hz={sample_rate_hz}; should be a multiple of 100, for two filters a frame")
        self.step_samples = self.hop_samples // STEPS
        self.window_samples = WINDOW_STEPS * self.step_samples
        self.bins = self.window_samples // 2 + 1
        self.first = nn.Conv1d(dim, channels, KERNEL, padding=KERNEL // 2)
        self.first_norm = nn.LayerNorm(channels, eps=1e-6)
        self.blocks = nn.ModuleList(ConvNextBlock(channels, hidden_channels, 1 / blocks) for _ in range(blocks))
        self.last_norm = nn.LayerNorm(channels, eps=1e-6)
        self.last = nn.Linear(channels, STEPS * 3 * self.bins)
        self.pitch_hidden = nn.Linear(dim, channels)
        self.pitch_last = nn.Linear(channels, PITCH_BINS + 1)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear):
                assert module.bias is not None
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.register_buffer("window", torch.hann_window(self.window_samples), persistent=False)
        noise = torch.randn(NOISE_FRAMES * self.hop_samples, generator=torch.Generator().manual_seed(0))
        self.register_buffer("noise", noise.view(NOISE_FRAMES, self.hop_samples), persistent=False)
        octaves = torch.linspace(math.log2(LOWEST_HZ), math.log2(HIGHEST_HZ), PITCH_BINS)
        self.register_buffer("pitches_hz", 2**octaves, persistent=False)

    @property
    def halo_frames(self) -> int:
        """Return how many frames on each side of a frame change its samples: what a chunk must bring with it."""
        return KERNEL // 2 * (1 + len(self.blocks)) + 2

    def forward(
        self, features: Float[Tensor, "batch frame dim"], place: Place | None = None, pitch: Pitch | None = None
    ) -> Float[Tensor, "batch time"]:
        """Return waves of exactly `hop_samples` for each frame.

        Args:
            place: of the first frame; None: a recording's beginning.
            pitch: to be used instead of the features' own, in training.
        """
        hidden = self.first_norm(self.first(features.transpose(1, 2)).transpose(1, 2))
        for block in self.blocks:
            hidden = block(hidden)
        batch, frames = features.shape[:2]
        if place is None:
            zeros = torch.zeros(batch, device=features.device)
            place = Place(zeros.long(), zeros)
        # In float32 under autocast too: a phase of bfloat16 would be off by degrees.
        with torch.autocast(features.device.type, enabled=False):
            pitch = pitch or self.pitch(features)
            numbers = self.last(self.last_norm(hidden.to(self.last.weight.dtype))).float()
            voiced_gain, noise_gain, delay = numbers.view(batch, frames * STEPS, 3, self.bins).unbind(2)
            gains = (voiced_gain, noise_gain)
            voiced, noisy = (gain.clamp_max(HIGHEST_GAIN).exp() for gain in gains)
            pulses = self._spectra(self._pulses(pitch, place.cycles))
            noise = self._spectra(self._noise(place.frame, frames))
            spectra = pulses * torch.polar(voiced, delay) + noise * noisy
            pieces = torch.fft.irfft(spectra, n=self.window_samples) * self.window
            weights = self.window.square().expand(1, pieces.shape[1], -1)
            left = (self.window_samples - self.step_samples) // 2
            kept = slice(left, left + frames * self.hop_samples)
            step = self.step_samples
            return overlap_add(pieces, step)[:, kept] / overlap_add(weights, step)[:, kept]

    def at(self, features: Float[Tensor, "batch frame dim"], place: Place) -> Float[Tensor, "batch time"]:
        """Return the waves of chunks, pulses and noise going on from the chunks before."""
        return self(features, place)

    def follow(self, features: Float[Tensor, "frame dim"], cycles: float) -> float:
        """Return how far the fundamental is in its cycle at the last of some frames, from that at the first."""
        start = torch.tensor([cycles], dtype=torch.float64, device=features.device)
        return float(_cycles(self.pitch(features), start)[-1])

    def training_forward(
        self,
        features: Float[Tensor, "batch frame dim"],
        wave: Float[Tensor, "batch time"],
        first: Int[Tensor, " batch"],
    ) -> tuple[Float[Tensor, "batch time"], Float[Tensor, ""]]:
        """Return the waves made at the true pitch, and what the features' own pitch has wrong of it."""
        pitch = Pitch(*pitch_of(wave, self.sample_rate_hz))
        place = Place(first, torch.zeros_like(first, dtype=torch.float32))
        return self(features, place, pitch), self.pitch_loss(features, pitch)

    def pitch(self, features: Float[Tensor, "*batch frame dim"]) -> Pitch:
        """Return the pitch that the features tell, each frame for itself."""
        with torch.no_grad():
            scores = self._pitch_scores(features)
            likely, at = scores[..., :-1].max(-1, keepdim=True)
            places = torch.arange(PITCH_BINS, device=features.device)
            # In float64: an octave's rounding in float32 is a phase's of a thousandth of a cycle after some seconds.
            near = torch.where((places - at).abs() <= 4, (scores[..., :-1] - likely).double().exp(), 0)
            octaves = (near * self.pitches_hz.double().log2()).sum(-1) / near.sum(-1)
            return Pitch((2**octaves).float(), scores[..., -1] > 0)

    def pitch_loss(self, features: Float[Tensor, "batch frame dim"], pitch: Pitch) -> Float[Tensor, ""]:
        """Return the cross-entropy of the features' pitch and voicing against the true ones."""
        scores = self._pitch_scores(features)
        distance = (self.pitches_hz.log2() - pitch.frequency_hz.log2()[..., None]) * (PITCH_BINS - 1)
        distance = distance / math.log2(HIGHEST_HZ / LOWEST_HZ)
        target = (-0.5 * distance.square()).softmax(-1)
        wrong = -(target * scores[..., :-1].log_softmax(-1)).sum(-1)
        is_voiced = pitch.is_voiced.float()
        frequency = (wrong * is_voiced).sum() / is_voiced.sum().clamp_min(1)
        return frequency + F.binary_cross_entropy_with_logits(scores[..., -1], is_voiced)

    def _pitch_scores(self, features: Float[Tensor, "*batch frame dim"]) -> Float[Tensor, "*batch frame score"]:
        return self.pitch_last(F.gelu(self.pitch_hidden(features.to(self.pitch_hidden.weight.dtype)))).float()

    def _pulses(self, pitch: Pitch, cycles: Float[Tensor, " batch"]) -> Float[Tensor, "batch time"]:
        """Return band-limited pulses of the same power at any pitch."""
        middle = _cycles(pitch, cycles[:, None].double())
        hop, frequency = self.hop_samples, pitch.frequency_hz
        # From the middle of each frame to that of the next, the pitch changes evenly; the ends go on as they are.
        after = torch.cat([frequency[:, 1:], frequency[:, -1:]], 1)
        times = (torch.arange(hop, device=frequency.device) + 0.5) / self.sample_rate_hz
        slope = ((after - frequency) * FRAMES_PER_SECOND)[..., None] / 2
        phase = middle[..., None] + (frequency[..., None] * times + slope * times.square()).double()
        lead = middle[:, :1] - frequency[:, :1].double() * times[: hop // 2].flip(0).double()
        phase = torch.cat([lead, phase.flatten(1)], 1)[:, : frequency.shape[1] * hop]
        phase = (phase - phase.round()).float()  # of a cycle, from -1/2 to 1/2
        sample_hz = frequency.repeat_interleave(hop, 1)
        harmonics = (HIGHEST_HARMONIC * self.sample_rate_hz / 2 / sample_hz).floor()
        below = torch.sin(math.pi * phase)
        is_peak = below.abs() < 1e-4
        sums = torch.sin((2 * harmonics + 1) * math.pi * phase) / below.masked_fill(is_peak, 1)
        return (torch.where(is_peak, 2 * harmonics + 1, sums) - 1) / (2 * harmonics).sqrt()

    def _noise(self, first: Int[Tensor, " batch"], frames: int) -> Float[Tensor, "batch time"]:
        places = first[:, None] + torch.arange(frames, device=first.device)
        return self.noise[places.remainder(NOISE_FRAMES)].flatten(1)

    def _spectra(self, source: Float[Tensor, "batch time"]) -> Tensor:
        side = (self.window_samples - self.step_samples) // 2
        pieces = F.pad(source, (side, side)).unfold(-1, self.window_samples, self.step_samples)
        return torch.fft.rfft(pieces * self.window)


def _cycles(pitch: Pitch, start: Float[Tensor, "*batch 1"]) -> Float[Tensor, "*batch frame"]:
    """Return the place in the cycle at the middle of each frame: pulses start anew wherever nothing is voiced."""
    frequency = pitch.frequency_hz.double()
    advances = (frequency[..., 1:] + frequency[..., :-1]) / (2 * FRAMES_PER_SECOND)
    total = F.pad(advances.cumsum(-1), (1, 0))
    places = torch.arange(total.shape[-1], device=total.device)
    anew = torch.where(pitch.is_voiced, -1, places).cummax(-1).values
    since = total - total.gather(-1, anew.clamp_min(0))
    return torch.where(anew < 0, total + start, since).remainder(1)
