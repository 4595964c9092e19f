"""Log-mel front end: 16 kHz waves to the input of an encoder's layers, 50 frames a second, with no learnt weights.

`Scales` is what both front ends (see `conv_frontend`) take over the whole of a recording; with the scales of the whole,
a part of a recording gives the whole's frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Float32, Float64, Int
from torch import Tensor, nn

from miipher2.config.schema_data import HOP_SAMPLES, SAMPLE_RATE_HZ
from miipher2.models.device import copy_to

MARGIN = 120  # values on each side of 10 ms that a frame sees
CONSTANT = 4.0  # about the largest standardised log-mel
EPSILON = 1e-7  # added to a variance, as transformers' feature extractors do


@dataclass(frozen=True)
class Scales:
    """Statistics over time of whole recordings, one row each: x becomes (x - shift) * scale.

    Args:
        shift, scale: of the wave, or of each log-mel band.
        gain, offset: HuBERT's GroupNorm as a factor and a summand of each channel of the first convolution; None for
            encoders without one.
    """

    shift: Float[Tensor, "batch *band"]
    scale: Float[Tensor, "batch *band"]
    gain: Float[Tensor, "batch dim"] | None = None
    offset: Float[Tensor, "batch dim"] | None = None

    @classmethod
    def stack(cls, rows: Sequence["Scales"], device: torch.device) -> "Scales":
        """Return the scales of a batch, which are on the host, on a device that the host does not wait for."""
        columns = [[getattr(row, field.name) for row in rows] for field in fields(cls)]
        stacked: list[Any] = [None if column[0] is None else copy_to(device, torch.cat(column)) for column in columns]
        return cls(*stacked)


class LogMelFrontEnd(nn.Module):
    """Kaldi's log-mel as in w2v-BERT 2.0: two frames of 10 ms stacked to one of 20 ms.

    Args:
        mels: bands from 20 Hz to 8 kHz.
        normalise: "utterance" (each band to mean 0 and variance 1 over the valid part, as facebook/w2v-bert-2.0), or
            "fixed" (by `mean` and `std`, so that a frame does not depend on the rest of the recording).
        mean, std: for "fixed": one number, or one for each band, in natural log of power at 16-bit scale.
        mirror: return [m, -m]: the LayerNorm that follows would erase a level common to all bands.
        constants: this many values of 4 follow m: the LayerNorm divides by a frame's deviation, and they keep it.
        shift_samples: how much later than centred on its 10 ms each frame is taken, at 16 kHz.

    Raises:
        ValueError: `normalise` is neither, `mean` and `std` do not go with it, or have another number of bands, the
            shift leads out of what a frame sees, or `constants` is negative.
    """

    context_samples = HOP_SAMPLES  # on each side; frames depend on up to 240 more values, but whole frames are simpler
    mean: Tensor
    std: Tensor
    window: Tensor
    filters: Tensor

    def __init__(
        self,
        mels: int,
        normalise: str = "utterance",
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        mirror: bool = False,
        constants: int = 0,
        shift_samples: int = 0,
    ) -> None:
        super().__init__()
        if not -MARGIN <= shift_samples <= MARGIN:
            raise ValueError(f"shift_samples={shift_samples}; should be from -{MARGIN} to {MARGIN}")
        if constants < 0:
            raise ValueError(f"constants={constants}; should be 0 or more")
        # 400 values every 160: 120 more on each side make 1 s exactly 100 frames.
        self.padding = (MARGIN - shift_samples, MARGIN + shift_samples)
        if normalise not in ("utterance", "fixed"):
            raise ValueError(f"normalise={normalise!r}; should be 'utterance' or 'fixed'")
        if (normalise == "fixed") != (mean is not None) or (normalise == "fixed") != (std is not None):
            raise ValueError(f"normalise={normalise!r}, mean={mean}, std={std}; mean and std both go with 'fixed' only")
        self.mels, self.is_fixed, self.mirror, self.constants = mels, normalise == "fixed", mirror, constants
        if self.is_fixed:
            # Persistent: they are part of the encoder and of its digest.
            self.register_buffer("mean", _per_band("mean", mean, mels))
            self.register_buffer("std", _per_band("std", std, mels))
        window = torch.from_numpy(np.power(np.hanning(400), 0.85)).float()  # Povey's
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", torch.from_numpy(_mel_filters(mels)).float(), persistent=False)

    @property
    def dim(self) -> int:
        """Return the size of a frame."""
        return (self.mels * 2 + self.constants) * (2 if self.mirror else 1)

    def forward(
        self, waves: Float[Tensor, "batch time"], valid_frames: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch frame dim"]:
        """Return the frames of waves that are whole frames long and zero after their valid part."""
        mel = self.log_mel(waves)
        if self.is_fixed:
            return self.stack(mel)
        if valid_frames is None:
            valid_frames = torch.full((len(mel),), waves.shape[1] // HOP_SAMPLES, device=mel.device)
        valid = (torch.arange(mel.shape[1], device=mel.device) < 2 * valid_frames[:, None])[..., None]
        count = 2 * valid_frames[:, None, None]
        mean = mel.masked_fill(~valid, 0).sum(1, keepdim=True) / count
        variance = (mel - mean).masked_fill(~valid, 0).square().sum(1, keepdim=True) / (count - 1)
        scales = Scales(mean[:, 0], torch.rsqrt(variance + EPSILON)[:, 0])
        return self.stack(mel, scales).masked_fill(~valid[:, ::2], 0)

    def log_mel(self, waves: Float[Tensor, "batch time"]) -> Float[Tensor, "batch half_frame mel"]:
        """Return the log-mel itself, 100 frames a second, before it is standardised.

        Source: transformers' SeamlessM4TFeatureExtractor (Kaldi's fbank on 16-bit values).
        """
        with torch.autocast(waves.device.type, enabled=False):
            spectrum = self.spectrum(F.pad(waves.float() * 2**15, self.padding).unfold(-1, 400, 160))
            power = spectrum.real.square() + spectrum.imag.square()
            return (power @ self.filters).clamp_min(torch.finfo(torch.float32).eps).log()

    def spectrum(self, frames: Float[Tensor, "*batch 400"]) -> Complex[Tensor, "*batch 257"]:
        """Return the spectrum of each 16-bit frame, mean removed, pre-emphasised and windowed: linear in the frame."""
        frames = frames - frames.mean(-1, keepdim=True)
        previous = torch.cat([frames[..., :1], frames[..., :-1]], -1)
        return torch.fft.rfft((frames - 0.97 * previous) * self.window, n=512)

    def stack(
        self, mel: Float[Tensor, "batch half_frame mel"], scales: Scales | None = None
    ) -> Float[Tensor, "batch frame dim"]:
        """Return frames of a log-mel, standardised by `scales` or, where the statistics are fixed, by those."""
        if scales is None or self.is_fixed:
            mel = (mel - self.mean) / self.std
        else:
            mel = (mel - scales.shift[:, None]) * scales.scale[:, None]
        stacked = F.pad(mel.reshape(mel.shape[0], -1, self.mels * 2), (0, self.constants), value=CONSTANT)
        return torch.cat([stacked, -stacked], -1) if self.mirror else stacked

    def standardise(self, waves: Float[Tensor, "batch time"], scales: Scales) -> Float[Tensor, "batch time"]:
        """Return the waves as they are: the log-mel is standardised, not the wave."""
        return waves

    def frames(self, waves: Float[Tensor, "batch time"], scales: Scales) -> Float[Tensor, "batch frame dim"]:
        """Return the frames of standardised waves that have `context_samples` more on each side."""
        return self.stack(self.log_mel(waves)[:, 2:-2], scales)

    def statistics(self) -> "LogMelStatistics":
        """Return an accumulator for the scales of one recording, read block by block."""
        return LogMelStatistics(self)


class LogMelStatistics:
    """Mean and unbiased variance of each log-mel band of one recording, whose length should be whole frames."""

    def __init__(self, front_end: LogMelFrontEnd) -> None:
        self._front_end = front_end
        self._count = 0
        self._sum = torch.zeros(front_end.mels, dtype=torch.float64)
        self._sum_squares = torch.zeros_like(self._sum)
        self._pending = np.zeros(HOP_SAMPLES, np.float32)  # silence precedes the recording, and follows it

    def add(self, block: Float32[np.ndarray, " time"]) -> None:
        """Add the next values of the recording."""
        if self._front_end.is_fixed:
            return
        values = np.concatenate([self._pending, block])
        frames = max(0, len(values) // HOP_SAMPLES - 2)
        self._pending = values[frames * HOP_SAMPLES :]
        if frames:
            with torch.inference_mode():
                waves = torch.from_numpy(values[None, : (frames + 2) * HOP_SAMPLES])
                mel = self._front_end.log_mel(waves)[0, 2:-2].double()
            self._count += len(mel)
            self._sum += mel.sum(0)
            self._sum_squares += mel.square().sum(0)

    def finish(self) -> Scales:
        """Return the scales of all that was added; a front end with fixed statistics ignores them."""
        if self._front_end.is_fixed:
            return Scales(torch.zeros(1, self._front_end.mels), torch.ones(1, self._front_end.mels))
        self.add(np.zeros(HOP_SAMPLES, np.float32))
        mean = self._sum / self._count
        variance = (self._sum_squares - self._count * mean.square()).clamp_min(0) / (self._count - 1)
        return Scales(mean.float()[None], torch.rsqrt(variance + EPSILON).float()[None])


def log_mel_front_end(config: Any) -> LogMelFrontEnd:
    """Return the front end of a w2v-BERT 2.0 config: as its attribute `miipher2_front_end` describes it, or Meta's.

    Raises:
        ValueError: its frames are of another size than the model's input.
    """
    settings = getattr(config, "miipher2_front_end", None)
    front_end = LogMelFrontEnd(**settings) if settings else LogMelFrontEnd(config.feature_projection_input_dim // 2)
    if front_end.dim != config.feature_projection_input_dim:
        raise ValueError(
            f"miipher2_front_end={settings} makes frames of {front_end.dim} values; "
            f"should be feature_projection_input_dim={config.feature_projection_input_dim}"
        )
    return front_end


def _mel_filters(mels: int) -> Float64[np.ndarray, "257 mel"]:
    """Return Kaldi's triangles, from 20 Hz to 8 kHz, over the bins of a spectrum of 512 values.

    Source: transformers' `mel_filter_bank` with Kaldi's scale, to the bit.
    """

    def to_mel(frequency_hz: Any) -> Any:
        return 1127.0 * np.log(1.0 + frequency_hz / 700.0)

    edges = np.linspace(to_mel(20), to_mel(SAMPLE_RATE_HZ // 2), mels + 2)
    return triangular_bands(edges, to_mel(SAMPLE_RATE_HZ / 512 * np.arange(257)))


def triangular_bands(
    edges: Float64[np.ndarray, " edge"], bins: Float64[np.ndarray, " bin"]
) -> Float64[np.ndarray, "bin band"]:
    """Return the weights of bins in bands that rise from 0 at one edge to 1 at the next, and fall to 0 at the third."""
    slopes, widths = edges[None] - bins[:, None], np.diff(edges)
    return np.maximum(0.0, np.minimum(-slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]))


def _per_band(name: str, value: float | Sequence[float] | None, mels: int) -> Float[Tensor, " mel"]:
    """Return one number for each band."""
    numbers = torch.as_tensor(value, dtype=torch.float32)
    if numbers.ndim and numbers.shape != (mels,):
        raise ValueError(f"{name} has {tuple(numbers.shape)} values; should be one, or one for each of {mels} bands")
    if name == "std" and not bool((numbers > 0).all()):
        raise ValueError(f"std={value}; should be greater than 0")
    return numbers.expand(mels).clone()
