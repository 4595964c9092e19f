"""Attention by PyTorch's fused kernels for transformers' encoders, with a mask that is made without asking the device.

transformers' own mask for SDPA first looks whether anything is masked at all, and so waits for the device in each pass.
"""

from typing import Any

from jaxtyping import Bool
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

NAME = "miipher2_sdpa"


def use_unasked_masks(model: Any) -> None:
    """Let a model that attends by SDPA take its mask from `key_mask`; leave any other (WavLM) as it is."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, sdpa_attention_forward)
        AttentionMaskInterface.register(NAME, key_mask)
        model.config._attn_implementation = NAME


def key_mask(
    *, q_length: Any, attention_mask: Bool[Tensor, "batch key"] | None = None, **_: Any
) -> Bool[Tensor, "batch 1 query key"] | None:
    """Return which keys each query may look at: the valid ones; None where there is no mask.

    Args:
        q_length: how many queries; a tensor where the model is traced into a graph.
    """
    if attention_mask is None:
        return None
    return attention_mask[:, None, None].expand(-1, 1, q_length, -1).contiguous()
