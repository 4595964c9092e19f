"""From a 16 kHz wave to what an encoder's layers are fed, 50 frames a second, by learnt convolutions.

They are most of what an encoder cut at a low layer costs, and bound by memory. So time comes before channels: a
convolution is then a few matrix products over rows of the same memory, without a copy, and every value is written once.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from miipher2.models.encoder.logmel_frontend import HOP_SAMPLES


class WaveFrontEnd(nn.Module):
    """The convolutions of HuBERT, WavLM and wav2vec 2.0, padded so that every hop of the wave gives one frame.

    A file alone and the same file in a padded batch give the same frames: statistics over time (of the wave, and of
    HuBERT-base's GroupNorm) are taken over the valid part only. Under autocast the products are in its type.

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
        # HuBERT sees 400 values every 320: 40 more on each side make 2 s exactly 100 frames, not 99.
        seen = 1 + sum((kernel - 1) * math.prod(strides[:i]) for i, kernel in enumerate(kernels))
        extra = max(seen - HOP_SAMPLES, 0)
        self.padding = (extra // 2, extra - extra // 2)

    @property
    def group_norm(self) -> nn.GroupNorm | None:
        """Return the norm over time that follows the first convolution of HuBERT-base, where there is one."""
        first: Any = self.conv_layers[0]
        norm = getattr(first, "layer_norm", None)
        return norm if isinstance(norm, nn.GroupNorm) else None

    def forward(
        self, waves: Float[Tensor, "batch time"], valid_frames: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch frame dim"]:
        """Return the frames of waves that are whole frames long and zero after their valid part."""
        if self.normalise:
            waves = _normalise_wave(waves, valid_frames)
        padded = F.pad(waves, self.padding)
        if self.group_norm is None:
            return self.convolve(padded)
        if valid_frames is None:
            valid_frames = torch.full((len(waves),), waves.shape[1] // HOP_SAMPLES, device=waves.device)
        # As many places as the first convolution has on the wave alone, its padding included.
        places = (valid_frames * HOP_SAMPLES + sum(self.padding) - self.kernel) // self.stride + 1
        return self.convolve(padded, *self._gain_and_offset(padded, places))

    def convolve(
        self,
        waves: Float[Tensor, "batch time"],
        gain: Float[Tensor, "batch dim"] | None = None,
        offset: Float[Tensor, "batch dim"] | None = None,
    ) -> Float[Tensor, "batch frame dim"]:
        """Return the frames of padded waves.

        Args:
            waves: whole frames and the padding on both sides.
            gain, offset: what each channel of the first convolution, its bias left out, is multiplied by, and what is
                then added: its GroupNorm. Without them the first layer has none.
        """
        device = waves.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else self._first_weight.dtype
        frames = (waves.shape[1] - sum(self.padding)) // HOP_SAMPLES
        # A layer has its stride times the next one's rows, and all recordings lie in one piece of memory. A last frame
        # sees past its own hop, by less than the spare rows at its recording's end, whose own frames are nobody's.
        spare = 1 + sum(self.padding) // HOP_SAMPLES
        rows = HOP_SAMPLES // self.stride * (frames + spare)
        waves = F.pad(waves, (0, (rows - 1) * self.stride + self.kernel - waves.shape[1]))
        with torch.autocast(device, enabled=False):
            hidden = self._first(waves.unfold(1, self.kernel, self.stride).to(dtype), gain, offset).flatten(0, 1)
            layer: Any
            for layer in list(self.conv_layers)[1:]:
                hidden = _activate(layer, _convolve(hidden, layer.conv))
        return hidden.unflatten(0, (len(waves), frames + spare))[:, :frames]

    @property
    def _first_weight(self) -> Float[Tensor, "dim kernel"]:
        first: Any = self.conv_layers[0]
        return first.conv.weight[:, 0]

    def _gain_and_offset(
        self, padded: Float[Tensor, "batch time"], places: Int[Tensor, " batch"]
    ) -> tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]:
        """Return the GroupNorm of the first convolution's output, which is never looked at.

        The convolution is linear: mean and variance of its output follow from those of the few values that it sees.
        They are taken in float64, since a filter may leave next to nothing of what is in the wave.
        """
        norm = self.group_norm
        assert norm is not None
        assert norm.num_groups == norm.num_channels
        with torch.autocast(padded.device.type, enabled=False):
            windows = padded.double().unfold(1, self.kernel, self.stride)
            inside = torch.arange(windows.shape[1], device=padded.device) < places[:, None]
            windows = windows * inside[..., None]
            count = places.double()[:, None, None]
            mean = windows.sum(1, keepdim=True) / count
            covariance = windows.mT @ windows / count - mean.mT @ mean
            weight = self._first_weight.double()
            variance = (weight @ covariance * weight).sum(-1).clamp_min(0)
            gain = norm.weight * torch.rsqrt(variance + norm.eps)
            return gain.float(), (norm.bias - (mean[:, 0] @ weight.T) * gain).float()

    def _first(
        self,
        windows: Float[Tensor, "batch row kernel"],
        gain: Float[Tensor, "batch dim"] | None,
        offset: Float[Tensor, "batch dim"] | None,
    ) -> Float[Tensor, "batch row dim"]:
        first: Any = self.conv_layers[0]
        weight = self._first_weight.T
        if gain is not None and offset is not None:
            weight, offset = (weight * gain[:, None]).to(windows.dtype), offset[:, None].to(windows.dtype)
            return first.activation(torch.baddbmm(offset, windows, weight))
        hidden = windows @ weight.to(windows.dtype)
        if first.conv.bias is not None:
            hidden += first.conv.bias.to(hidden.dtype)
        return _activate(first, hidden)


def _convolve(hidden: Float[Tensor, "row dim"], conv: nn.Conv1d) -> Float[Tensor, "short_row wide"]:
    """Return a convolution without padding over rows that are a multiple of its stride, with places for all of them.

    The last places, where the kernel reaches past the end, hold part of a sum.
    """
    stride, kernel = conv.stride[0], conv.kernel_size[0]
    taps = conv.weight.to(hidden.dtype).permute(2, 1, 0)
    strides = hidden.view(len(hidden) // stride, stride * hidden.shape[1])
    made: Tensor | None = None
    for first in range(0, kernel, stride):
        weight = taps[first : first + stride].flatten(0, 1)
        seen = strides[first // stride :, : len(weight)]
        if made is None:
            bias = conv.bias
            made = seen @ weight if bias is None else torch.addmm(bias.to(hidden.dtype), seen, weight)
        else:
            made[: len(seen)].addmm_(seen, weight)
    assert made is not None
    return made


def _activate(layer: Any, hidden: Float[Tensor, "*row dim"]) -> Float[Tensor, "*row dim"]:
    """Return what follows a convolution: the activation, after a LayerNorm over channels in the large models."""
    norm = getattr(layer, "layer_norm", None)
    if norm is not None:
        weight, bias = norm.weight.to(hidden.dtype), norm.bias.to(hidden.dtype)
        hidden = F.layer_norm(hidden, norm.normalized_shape, weight, bias, norm.eps)
    return layer.activation(hidden)


def _normalise_wave(
    waves: Float[Tensor, "batch time"], valid_frames: Int[Tensor, " batch"] | None
) -> Float[Tensor, "batch time"]:
    """Return waves of mean 0 and variance 1 over their valid part, zero after it, as transformers' extractor does."""
    samples = torch.full((len(waves),), waves.shape[1], device=waves.device)
    samples = samples if valid_frames is None else valid_frames * HOP_SAMPLES
    valid = torch.arange(waves.shape[1], device=waves.device) < samples[:, None]
    centred = (waves - waves.masked_fill(~valid, 0).sum(1, keepdim=True) / samples[:, None]).masked_fill(~valid, 0)
    variance = centred.square().sum(1, keepdim=True) / samples[:, None]
    return centred * torch.rsqrt(variance + 1e-7)
