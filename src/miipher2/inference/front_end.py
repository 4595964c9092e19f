"""An encoder's front end over pieces of a recording, with the statistics that it takes over the whole of it.

Knows the two front ends of `models/front_end.py`; the frames of a piece are those of the whole recording.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from miipher2.models.encoder.conv_frontend import WaveFrontEnd
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.logmel_frontend import HOP_SAMPLES, LogMelFrontEnd

WAVE_EPSILON = BAND_EPSILON = 1e-7  # as the front ends have them


@dataclass(frozen=True)
class Scales:
    """What a channel's values are brought to: x → (x - shift) * scale, and what follows the first convolution.

    `shift` and `scale` are numbers for a wave, one for each band for log-mel; `gain` and `offset` stand for HuBERT's
    GroupNorm, one for each channel of the convolution, and are None elsewhere.
    """

    shift: Float32[np.ndarray, "*band"]
    scale: Float32[np.ndarray, "*band"]
    gain: Float32[np.ndarray, " dim"] | None = None
    offset: Float32[np.ndarray, " dim"] | None = None


class PieceFrontEnd:
    """The front end of `encoder` and the projection after it, for waves that bring their neighbourhood.

    Args:
        encoder: stays the owner of the weights.
        piece_frames: how many frames are made at once: bounds memory, changes no value.
    """

    def __init__(self, encoder: SpeechEncoder, piece_frames: int) -> None:
        self._front_end, self._projection = encoder.front_end, encoder.projection
        self._piece_frames = piece_frames
        self._on_cpu = copy.deepcopy(encoder.front_end).cpu()  # the first pass runs beside the network
        # Frames of log-mel see 120 values more on each side; a whole frame is simpler and costs nothing.
        front_end = encoder.front_end
        self.side_samples = max(front_end.padding) if isinstance(front_end, WaveFrontEnd) else HOP_SAMPLES

    def first_pass(self) -> "WaveMoments | BandMoments":
        """Return what gathers one channel's statistics."""
        if isinstance(self._on_cpu, WaveFrontEnd):
            return WaveMoments(self._on_cpu)
        return BandMoments(self._on_cpu)

    def frames(
        self, waves: Float[Tensor, "batch time"], scales: Sequence[Scales], outside: Sequence[tuple[int, int]]
    ) -> Float[Tensor, "batch frame dim"]:
        """Return projected frames.

        Args:
            waves: `side_samples` values, then whole frames, then `side_samples` values.
            scales: each row's.
            outside: how many values at the beginning and at the end of each row lie outside its recording.
        """
        if isinstance(self._front_end, WaveFrontEnd):
            shift, scale = (_stack([getattr(row, name) for row in scales], waves) for name in ("shift", "scale"))
            waves = (waves - shift[:, None]) * scale[:, None]
        waves = waves.clone()
        for row, (left, right) in zip(waves, outside, strict=True):
            row[:left] = 0
            row[len(row) - right :] = 0
        frames = (waves.shape[1] - 2 * self.side_samples) // HOP_SAMPLES
        pieces = [
            self._piece(waves[:, start * HOP_SAMPLES : stop * HOP_SAMPLES + 2 * self.side_samples], scales)
            for start in range(0, frames, self._piece_frames)
            for stop in [min(start + self._piece_frames, frames)]
        ]
        projected = [frames[0] if isinstance(frames, tuple) else frames for frames in map(self._projection, pieces)]
        return projected[0] if len(projected) == 1 else torch.cat(projected, 1)

    def _piece(self, waves: Float[Tensor, "batch time"], scales: Sequence[Scales]) -> Float[Tensor, "batch frame dim"]:
        front_end = self._front_end
        if isinstance(front_end, LogMelFrontEnd):
            mel = front_end.log_mel(waves)[:, 2:-2]
            shift, scale = (_stack([getattr(row, name) for row in scales], mel) for name in ("shift", "scale"))
            stacked = ((mel - shift[:, None]) * scale[:, None]).reshape(len(mel), -1, front_end.mels * 2)
            return torch.cat([stacked, -stacked], -1) if front_end.mirror else stacked
        if scales[0].gain is None:
            return front_end.convolve(waves)
        gain, offset = (_stack([getattr(row, name) for row in scales], waves) for name in ("gain", "offset"))
        return front_end.convolve(waves, gain, offset)


class WaveMoments:
    """Mean and variance of a wave and, where HuBERT's GroupNorm follows, those of its first convolution's output.

    The convolution is linear: the moments of its output follow from those of the `kernel` values that it sees, and
    these are few. Beside each value stands whether it lies inside the wave, since the padding outside is zero only
    after the wave has been normalised.
    """

    def __init__(self, front_end: WaveFrontEnd) -> None:
        self._front_end = front_end
        self._count, self._sum, self._squares = 0, 0.0, 0.0
        size = 2 * front_end.kernel
        self._places, self._first, self._second = 0, np.zeros(size), np.zeros((size, size))
        first: Any = front_end.conv_layers[0]
        self._norm = front_end.group_norm
        self._conv = first.conv
        self._rest = np.zeros((2, front_end.padding[0]))

    def add(self, block: Float32[np.ndarray, " time"]) -> None:
        """Take the next values."""
        values = block.astype(np.float64)
        self._count += len(values)
        self._sum += float(values.sum())
        self._squares += float(values @ values)
        if self._norm is not None:
            self._see(np.stack([values, np.ones(len(values))]))

    def finish(self) -> Scales:
        """Return the scales of all that was added."""
        mean, scale = 0.0, 1.0
        if self._front_end.normalise:
            mean = self._sum / self._count
            scale = float(1 / np.sqrt(max(self._squares / self._count - mean**2, 0.0) + WAVE_EPSILON))
        numbers = np.array(mean, np.float32), np.array(scale, np.float32)
        if self._norm is None:
            return Scales(*numbers)
        self._see(np.zeros((2, self._front_end.padding[1])))
        kernel = self._front_end.kernel
        to_heard = scale * np.concatenate([np.eye(kernel), -mean * np.eye(kernel)], 1)
        seen = to_heard @ self._first / self._places
        covariance = to_heard @ (self._second / self._places) @ to_heard.T - np.outer(seen, seen)
        weight = self._conv.weight.detach().double().numpy()[:, 0]
        variance = np.einsum("ck,kl,cl->c", weight, covariance, weight).clip(0)
        gain = self._norm.weight.detach().double().numpy() / np.sqrt(variance + self._norm.eps)
        # A bias of the convolution would move its output and the mean alike: it is left out of both.
        offset = self._norm.bias.detach().double().numpy() - weight @ seen * gain
        return Scales(*numbers, gain.astype(np.float32), offset.astype(np.float32))

    def _see(self, values: np.ndarray) -> None:
        """Add the moments of what the convolution sees at each of its places."""
        kernel, stride = self._front_end.kernel, self._front_end.stride
        values = np.concatenate([self._rest, values], 1)
        places = max(0, (values.shape[1] - kernel) // stride + 1)
        self._rest = values[:, places * stride :]
        if places:
            windows = np.lib.stride_tricks.sliding_window_view(values, kernel, axis=1)[:, : places * stride : stride]
            rows = windows.transpose(1, 0, 2).reshape(places, 2 * kernel)
            self._places += places
            self._first += rows.sum(0)
            self._second += rows.T @ rows


class BandMoments:
    """Mean and unbiased variance of each band of the log-mel, or the fixed ones that the front end carries."""

    def __init__(self, front_end: LogMelFrontEnd) -> None:
        self._front_end = front_end
        self._count, self._sum, self._squares = 0, np.zeros(front_end.mels), np.zeros(front_end.mels)
        self._rest = np.zeros(HOP_SAMPLES, np.float32)

    def add(self, block: Float32[np.ndarray, " time"]) -> None:
        """Take the next values."""
        if self._front_end.normalise != "fixed":
            self._see(block)

    def finish(self) -> Scales:
        """Return the scales of all that was added, which was whole frames."""
        if self._front_end.normalise == "fixed":
            return Scales(self._front_end.mean.numpy(), 1 / self._front_end.std.numpy())
        self._see(np.zeros(HOP_SAMPLES, np.float32))
        mean = self._sum / self._count
        variance = (self._squares - self._count * mean**2).clip(0) / (self._count - 1)
        return Scales(mean.astype(np.float32), (1 / np.sqrt(variance + BAND_EPSILON)).astype(np.float32))

    def _see(self, block: Float32[np.ndarray, " time"]) -> None:
        values = np.concatenate([self._rest, block])
        frames = len(values) // HOP_SAMPLES - 2
        if frames < 1:
            self._rest = values
            return
        self._rest = values[frames * HOP_SAMPLES :]
        with torch.inference_mode():
            piece = torch.from_numpy(values[: (frames + 2) * HOP_SAMPLES])
            mel = self._front_end.log_mel(piece[None])[0, 2:-2].double().numpy()
        self._count += len(mel)
        self._sum += mel.sum(0)
        self._squares += (mel**2).sum(0)


def _stack(rows: Sequence[np.ndarray], like: Tensor) -> Tensor:
    return torch.from_numpy(np.stack(rows)).to(like.device, like.dtype)
