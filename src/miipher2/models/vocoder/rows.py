"""Convolutions over time as convolutions over images of one row, whose layout in memory may be chosen.

On a CPU those that need no gradient are two to four times as fast with channels last: oneDNN then copies nothing.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def to_row(hidden: Float[Tensor, "batch channel time"]) -> Float[Tensor, "batch channel 1 time"]:
    """Return an image of one row; what is computed of it keeps its layout."""
    is_fast = hidden.device.type == "cpu" and not torch.is_grad_enabled()
    return hidden[:, :, None].contiguous(memory_format=torch.channels_last if is_fast else torch.contiguous_format)


def convolve(
    conv: Any, row: Float[Tensor, "batch channel 1 time"]
) -> Float[Tensor, "batch other_channel 1 other_time"]:
    """Return what an `nn.Conv1d` makes of a row."""
    shape = {"stride": (1, *conv.stride), "padding": (0, *conv.padding), "dilation": (1, *conv.dilation)}
    return F.conv2d(row, conv.weight[:, :, None], conv.bias, groups=conv.groups, **shape)


def convolve_up(
    conv: Any, row: Float[Tensor, "batch channel 1 time"]
) -> Float[Tensor, "batch other_channel 1 other_time"]:
    """Return what an `nn.ConvTranspose1d` makes of a row."""
    return F.conv_transpose2d(row, conv.weight[:, :, None], conv.bias, (1, *conv.stride), (0, *conv.padding))
