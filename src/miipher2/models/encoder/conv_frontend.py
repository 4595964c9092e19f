"""Convolutional front end: 16 kHz waves to the input of an encoder's layers, 50 frames a second, with learnt weights.

They are most of the cost of an encoder cut at a low layer, and memory-bound. So time comes before channels: a
convolution is then a few matrix products over rows of the same memory, without a copy, and every value is written once.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor, nn

from miipher2.config.schema_data import HOP_SAMPLES
from miipher2.models.encoder.logmel_frontend import EPSILON, Scales


class WaveFrontEnd(nn.Module):
    """The convolutions of HuBERT, WavLM and wav2vec 2.0, padded so that every hop of the wave gives one frame.

    A recording alone and the same recording in a padded batch give the same frames: statistics over time (of the wave,
    and of HuBERT-base's GroupNorm) are taken over the valid part only. Under autocast the products are in its type.

    Args:
        conv_layers: `feature_extractor.conv_layers` of a transformers model.
        kernels, strides: of these layers, in samples of their own input.
        normalise: whether each wave is brought to mean 0 and variance 1 first, as the model was trained.

    Raises:
        ValueError: the strides do not multiply to 320.
    """

    def __init__(
        self, conv_layers: nn.ModuleList, kernels: Sequence[int], strides: Sequence[int], normalise: bool
    ) -> None:
        super().__init__()
        if math.prod(strides) != HOP_SAMPLES:
            raise ValueError(f"strides {list(strides)} give a frame every {math.prod(strides)} samples; should be 320")
        self.conv_layers = conv_layers
        self.kernel, self.stride = kernels[0], strides[0]
        self.normalise = normalise
        # HuBERT's receptive field is 400 values every 320: 40 more on each side make 2 s exactly 100 frames, not 99.
        receptive_field = 1 + sum((kernel - 1) * math.prod(strides[:i]) for i, kernel in enumerate(kernels))
        extra = max(receptive_field - HOP_SAMPLES, 0)
        self.padding = (extra // 2, extra - extra // 2)
        self.context_samples = max(self.padding)

    @property
    def group_norm(self) -> nn.GroupNorm | None:
        """Return the norm over time that follows the first convolution of HuBERT-base, where there is one."""
        first: Any = self.conv_layers[0]
        norm = getattr(first, "layer_norm", None)
        return norm if isinstance(norm, nn.GroupNorm) else None

    @property
    def first_weight(self) -> Float[Tensor, "dim kernel"]:
        """Return the weight of the first convolution."""
        first: Any = self.conv_layers[0]
        return first.conv.weight[:, 0]

    def forward(
        self, waves: Float[Tensor, "batch time"], valid_frames: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch frame dim"]:
        """Return the frames of waves that are whole frames long and zero after their valid part."""
        if valid_frames is None:
            valid_frames = torch.full((len(waves),), waves.shape[1] // HOP_SAMPLES, device=waves.device)
        if self.normalise:
            waves = _normalise_waves(waves, valid_frames)
        padded = F.pad(waves, self.padding)
        if self.group_norm is None:
            return self.convolve(padded)
        # As many positions as the first convolution has on the wave alone, its padding included.
        positions = (valid_frames * HOP_SAMPLES + sum(self.padding) - self.kernel) // self.stride + 1
        with torch.autocast(padded.device.type, enabled=False):
            windows = padded.double().unfold(1, self.kernel, self.stride)
            windows = windows * (torch.arange(windows.shape[1], device=padded.device) < positions[:, None])[..., None]
            count = positions.double()[:, None, None]
            mean = windows.sum(1, keepdim=True) / count
            gain, offset = self.gain_and_offset(mean, windows.mT @ windows / count)
        return self.convolve(padded, gain, offset)

    def gain_and_offset(
        self, mean: Float64[Tensor, "batch 1 kernel"], second: Float64[Tensor, "batch kernel kernel"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Return the GroupNorm of the first convolution's output, without computing that output.

        The convolution is linear: the mean and variance of its output follow from the first and second moments of the
        `kernel` values under it. In float64, since a filter may leave next to nothing of what is in the wave.
        """
        norm = self.group_norm
        assert norm is not None
        assert norm.num_groups == norm.num_channels
        weight = self.first_weight.double()
        variance = (weight @ (second - mean.mT @ mean) * weight).sum(-1).clamp_min(0)
        gain = norm.weight * torch.rsqrt(variance + norm.eps)
        # A bias of the convolution would move its output and the mean alike: it is left out of both.
        return gain.float(), (norm.bias - (mean[:, 0] @ weight.T) * gain).float()

    def convolve(
        self,
        waves: Float[Tensor, "batch time"],
        gain: Float[Tensor, "batch dim"] | None = None,
        offset: Float[Tensor, "batch dim"] | None = None,
    ) -> Float[Tensor, "batch frame dim"]:
        """Return the frames of padded waves.

        Args:
            waves: whole frames and the padding on both sides.
            gain, offset: the GroupNorm of the first convolution, as `gain_and_offset` returns it; None without one.
        """
        device = waves.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self.first_weight.dtype
        frames = (waves.shape[1] - sum(self.padding)) // HOP_SAMPLES
        # A layer has its stride times the next one's rows, and all recordings share one block of memory. A last frame
        # reaches past its own hop, by less than the spare rows at its recording's end; frames of spare rows are
        # dropped.
        spare = 1 + sum(self.padding) // HOP_SAMPLES
        rows = HOP_SAMPLES // self.stride * (frames + spare)
        waves = F.pad(waves, (0, (rows - 1) * self.stride + self.kernel - waves.shape[1]))
        with torch.autocast(device, enabled=False):
            hidden = self._first(waves.unfold(1, self.kernel, self.stride).to(dtype), gain, offset).flatten(0, 1)
            layer: Any
            for layer in list(self.conv_layers)[1:]:
                hidden = _activate(layer, _convolve(hidden, layer.conv))
        return hidden.unflatten(0, (len(waves), frames + spare))[:, :frames]

    def standardise(self, waves: Float[Tensor, "batch time"], scales: Scales) -> Float[Tensor, "batch time"]:
        """Return the waves at the mean and variance of the whole recordings."""
        return (waves - scales.shift[:, None]) * scales.scale[:, None]

    def frames(self, waves: Float[Tensor, "batch time"], scales: Scales) -> Float[Tensor, "batch frame dim"]:
        """Return the frames of standardised waves that have `context_samples` more on each side."""
        return self.convolve(waves, scales.gain, scales.offset)

    def statistics(self) -> "WaveStatistics":
        """Return an accumulator for the scales of one recording, read block by block."""
        return WaveStatistics(self)

    def _first(
        self,
        windows: Float[Tensor, "batch row kernel"],
        gain: Float[Tensor, "batch dim"] | None,
        offset: Float[Tensor, "batch dim"] | None,
    ) -> Float[Tensor, "batch row dim"]:
        first: Any = self.conv_layers[0]
        weight = self.first_weight.T
        if gain is not None and offset is not None:
            weight, offset = (weight * gain[:, None]).to(windows.dtype), offset[:, None].to(windows.dtype)
            return first.activation(torch.baddbmm(offset, windows, weight))
        hidden = windows @ weight.to(windows.dtype)
        if first.conv.bias is not None:
            hidden += first.conv.bias.to(hidden.dtype)
        return _activate(first, hidden)


class WaveStatistics:
    """Mean and variance of one recording and, where a GroupNorm follows, those of the first convolution's output.

    Each value is paired with an indicator of whether it is inside the recording: the padding outside is zero only after
    the wave has been normalised, with a mean that follows at the end.
    """

    def __init__(self, front_end: WaveFrontEnd) -> None:
        self._front_end = front_end
        self._count, self._sum, self._sum_squares = 0, 0.0, 0.0
        size = 2 * front_end.kernel
        self._positions, self._first, self._second = 0, np.zeros(size), np.zeros((size, size))
        self._pending = np.zeros((2, front_end.padding[0]))

    def add(self, block: Float32[np.ndarray, " time"]) -> None:
        """Add the next values of the recording."""
        values = block.astype(np.float64)
        self._count += len(values)
        self._sum += float(values.sum())
        self._sum_squares += float(values @ values)
        if self._front_end.group_norm is not None:
            self._add_windows(np.stack([values, np.ones(len(values))]))

    def finish(self) -> Scales:
        """Return the scales of all that was added."""
        mean, scale = 0.0, 1.0
        if self._front_end.normalise:
            mean = self._sum / self._count
            scale = 1 / math.sqrt(max(self._sum_squares / self._count - mean**2, 0.0) + EPSILON)
        shift_and_scale = torch.tensor([mean]), torch.tensor([scale])
        if self._front_end.group_norm is None:
            return Scales(*shift_and_scale)
        self._add_windows(np.zeros((2, self._front_end.padding[1])))
        # From moments of (value, is inside) to those of (value - mean if inside, else 0) * scale.
        identity = np.eye(self._front_end.kernel)
        normalise = scale * np.concatenate([identity, -mean * identity], 1)
        first = torch.from_numpy(normalise @ self._first / self._positions)
        second = torch.from_numpy(normalise @ (self._second / self._positions) @ normalise.T)
        with torch.inference_mode():
            return Scales(*shift_and_scale, *self._front_end.gain_and_offset(first[None, None], second[None]))

    def _add_windows(self, values: Float64[np.ndarray, "2 time"]) -> None:
        """Add the moments of the values under the first convolution at each of its positions."""
        kernel, stride = self._front_end.kernel, self._front_end.stride
        values = np.concatenate([self._pending, values], 1)
        positions = max(0, (values.shape[1] - kernel) // stride + 1)
        self._pending = values[:, positions * stride :]
        if positions:
            windows = np.lib.stride_tricks.sliding_window_view(values, kernel, axis=1)[:, : positions * stride : stride]
            rows = windows.transpose(1, 0, 2).reshape(positions, 2 * kernel)
            self._positions += positions
            self._first += rows.sum(0)
            self._second += rows.T @ rows


def _convolve(hidden: Float[Tensor, "row dim"], conv: nn.Conv1d) -> Float[Tensor, "short_row wide"]:
    """Return a convolution without padding over rows that are a multiple of its stride, with rows for all of them.

    The last rows, where the kernel reaches past the end, hold part of a sum.
    """
    stride, kernel = conv.stride[0], conv.kernel_size[0]
    taps = conv.weight.to(hidden.dtype).permute(2, 1, 0)
    strides = hidden.view(len(hidden) // stride, stride * hidden.shape[1])
    weight = taps[:stride].flatten(0, 1)
    covered, bias = strides[:, : len(weight)], conv.bias
    output = covered @ weight if bias is None else torch.addmm(bias.to(hidden.dtype), covered, weight)
    for first in range(stride, kernel, stride):
        weight = taps[first : first + stride].flatten(0, 1)
        covered = strides[first // stride :, : len(weight)]
        output[: len(covered)].addmm_(covered, weight)
    return output


def _activate(layer: Any, hidden: Float[Tensor, "*row dim"]) -> Float[Tensor, "*row dim"]:
    """Return what follows a convolution: the activation, after a LayerNorm over channels in the large models."""
    norm = getattr(layer, "layer_norm", None)
    if norm is not None:
        weight, bias = norm.weight.to(hidden.dtype), norm.bias.to(hidden.dtype)
        hidden = F.layer_norm(hidden, norm.normalized_shape, weight, bias, norm.eps)
    return layer.activation(hidden)


def _normalise_waves(
    waves: Float[Tensor, "batch time"], valid_frames: Int[Tensor, " batch"]
) -> Float[Tensor, "batch time"]:
    """Return waves of mean 0 and variance 1 over their valid part, zero after it, as transformers' extractor does."""
    samples = valid_frames * HOP_SAMPLES
    valid = torch.arange(waves.shape[1], device=waves.device) < samples[:, None]
    centred = (waves - waves.masked_fill(~valid, 0).sum(1, keepdim=True) / samples[:, None]).masked_fill(~valid, 0)
    variance = centred.square().sum(1, keepdim=True) / samples[:, None]
    return centred * torch.rsqrt(variance + EPSILON)
