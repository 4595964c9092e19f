"""The first layers of w2v-BERT 2.0, with the names and the bits of transformers' own, which takes seconds to import.

Knows the form that `facebook/w2v-bert-2.0` and the mini encoder have; `from_pretrained` leaves others to transformers.

Source: Gulati et al. 2020, Conformer (arXiv:2005.08100), with a causal convolution; Shaw et al. 2018, relative keys
(arXiv:1803.02155); both as in transformers' Wav2Vec2BertModel.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ConformerConfig:
    """What `config.json` says of a model; the names and defaults are those of transformers' Wav2Vec2BertConfig."""

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    feature_projection_input_dim: int = 160
    layer_norm_eps: float = 1e-5
    left_max_position_embeddings: int = 64
    right_max_position_embeddings: int = 8
    conv_depthwise_kernel_size: int = 31
    miipher2_front_end: dict[str, Any] | None = None


class Projection(nn.Module):
    """From the front end's frames to the input of the first layer."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.feature_projection_input_dim, eps=config.layer_norm_eps)
        self.projection = nn.Linear(config.feature_projection_input_dim, config.hidden_size)

    def forward(self, frames: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame hidden_dim"]:
        """Return the projected frames."""
        return self.projection(self.layer_norm(frames))


class Conformer(nn.Module):
    """The layers."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, hidden: Float[Tensor, "batch frame dim"], attention_mask: Bool[Tensor, "batch frame"] | None = None
    ) -> Float[Tensor, "batch frame dim"]:
        """Return the output of the last layer; `attention_mask` says which frames are valid."""
        if attention_mask is not None:
            hidden = hidden.masked_fill(~attention_mask[..., None], 0.0)
        keys = key_mask(q_length=hidden.shape[1], attention_mask=attention_mask)
        for layer in self.layers:
            hidden = layer(hidden, keys, attention_mask)
        return hidden


def key_mask(
    *, q_length: Any, attention_mask: Bool[Tensor, "batch key"] | None = None, **_: Any
) -> Bool[Tensor, "batch 1 query key"] | None:
    """Return which keys each query may attend to: the valid ones; None without a mask.

    transformers' own mask for SDPA first checks whether anything is masked, and so waits for the device in each pass.

    Args:
        q_length: number of queries; a tensor where the model is traced.
    """
    if attention_mask is None:
        return None
    return attention_mask[:, None, None].expand(-1, 1, q_length, -1).contiguous()


def load_conformer(folder: Path, layers: int) -> tuple[ConformerConfig, Projection, Conformer] | None:
    """Return the first layers of a model in float32, or None where it should be left to transformers.

    Args:
        folder: as transformers writes it.

    Raises:
        ValueError: the model has fewer layers, or its file is damaged, lacks a weight or has one of another shape.
    """
    try:
        settings = json.loads((folder / "config.json").read_text())
        is_ours = (
            settings["model_type"] == "wav2vec2-bert"
            and settings.get("position_embeddings_type", "relative_key") == "relative_key"
            and settings.get("hidden_act", "swish") in ("swish", "silu")
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if not is_ours or not (folder / WEIGHTS).is_file():
        return None
    known = {field.name for field in fields(ConformerConfig)}
    check_layers(str(folder), settings.get("num_hidden_layers", ConformerConfig.num_hidden_layers), layers)
    config = ConformerConfig(
        **{name: value for name, value in settings.items() if name in known} | {"num_hidden_layers": layers}
    )
    with torch.device("meta"):  # nothing is drawn or kept only to be overwritten
        projection, encoder = Projection(config), Conformer(config)
    model = nn.ModuleDict({"feature_projection": projection, "encoder": encoder})
    wanted = model.state_dict().keys()
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            names = set(file.keys())
            if "encoder.layers.0.ffn1.output_dense.weight" not in names:
                return None  # a model with a head, whose names have a prefix
            check_weights(str(folder), sorted(wanted - names))
            state = {name: file.get_tensor(name).to(torch.float32, copy=True) for name in wanted}
        model.load_state_dict(state, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder / WEIGHTS}: does not fit config.json: {' '.join(str(error).split())}") from error
    return config, projection, encoder


def check_layers(name: str, available: int, layers: int) -> None:
    """Check that a model has a layer.

    Raises:
        ValueError: it has not.
    """
    if not 1 <= layers <= available:
        raise ValueError(f"{name} has {available} layers; layer {layers} should be from 1 to that")


def check_weights(name: str, missing: list[str]) -> None:
    """Check that no weight of a model is missing.

    Raises:
        ValueError: some are; names three.
    """
    if missing:
        raise ValueError(f"{name}: its file has no {', '.join(missing[:3])} ({len(missing)} missing); should have all")


class _Layer(nn.Module):
    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        self.ffn1_layer_norm = nn.LayerNorm(dim, eps=eps)
        self.ffn1 = _FeedForward(config)
        self.self_attn_layer_norm = nn.LayerNorm(dim, eps=eps)
        self.self_attn = _Attention(config)
        self.conv_module = _Convolution(config)
        self.ffn2_layer_norm = nn.LayerNorm(dim, eps=eps)
        self.ffn2 = _FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(dim, eps=eps)

    def forward(
        self,
        hidden: Float[Tensor, "batch frame dim"],
        keys: Bool[Tensor, "batch 1 query key"] | None,
        valid: Bool[Tensor, "batch frame"] | None,
    ) -> Float[Tensor, "batch frame dim"]:
        hidden = self.ffn1(self.ffn1_layer_norm(hidden)) * 0.5 + hidden
        hidden = self.self_attn(self.self_attn_layer_norm(hidden), keys) + hidden
        hidden = hidden + self.conv_module(hidden, valid)
        hidden = self.ffn2(self.ffn2_layer_norm(hidden)) * 0.5 + hidden
        return self.final_layer_norm(hidden)


class _FeedForward(nn.Module):
    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.intermediate_dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output_dense = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame dim"]:
        return self.output_dense(F.silu(self.intermediate_dense(hidden)))


class _Attention(nn.Module):
    """Attention with an embedding of each clipped distance, added to the keys."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dim, self.head_dim = config.hidden_size, config.hidden_size // config.num_attention_heads
        self.left, self.right = config.left_max_position_embeddings, config.right_max_position_embeddings
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.linear_out = nn.Linear(dim, dim)
        # `nn.Embedding` itself draws its weight, which on the meta device imports the compiler: a second.
        self.distance_embedding = nn.Embedding.from_pretrained(torch.empty(self.left + self.right + 1, self.head_dim))

    def forward(
        self, hidden: Float[Tensor, "batch frame dim"], keys: Bool[Tensor, "batch 1 query key"] | None
    ) -> Float[Tensor, "batch frame dim"]:
        shape = (*hidden.shape[:-1], -1, self.head_dim)
        query = self.linear_q(hidden).view(shape).transpose(1, 2)
        key = self.linear_k(hidden).view(shape).transpose(1, 2)
        value = self.linear_v(hidden).view(shape).transpose(1, 2)
        scale = self.head_dim**-0.5
        frames = torch.arange(hidden.shape[1], device=hidden.device)
        distance = (frames.view(1, -1) - frames.view(-1, 1)).clamp(-self.left, self.right)
        positions = self.distance_embedding(distance + self.left).to(query.dtype)
        bias = torch.einsum("bhld,lrd->bhlr", query, positions) * scale
        if keys is not None:
            bias = torch.where(keys, bias, torch.finfo(key.dtype).min)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=scale)
        return self.linear_out(attended.transpose(1, 2).contiguous().reshape(hidden.shape))


class _Convolution(nn.Module):
    """The causal convolution of a layer."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dim, eps, kernel = config.hidden_size, config.layer_norm_eps, config.conv_depthwise_kernel_size
        self.layer_norm = nn.LayerNorm(dim, eps=eps)
        self.pointwise_conv1 = nn.Conv1d(dim, 2 * dim, 1, bias=False)
        self.depthwise_conv = nn.Conv1d(dim, dim, kernel, groups=dim, bias=False)
        self.depthwise_layer_norm = nn.LayerNorm(dim, eps=eps)
        self.pointwise_conv2 = nn.Conv1d(dim, dim, 1, bias=False)

    def forward(
        self, hidden: Float[Tensor, "batch frame dim"], valid: Bool[Tensor, "batch frame"] | None
    ) -> Float[Tensor, "batch frame dim"]:
        hidden = self.layer_norm(hidden)
        if valid is not None:
            hidden = hidden.masked_fill(~valid[..., None], 0.0)
        hidden = F.glu(self.pointwise_conv1(hidden.transpose(1, 2)), dim=1)
        hidden = self.depthwise_conv(F.pad(hidden, (self.depthwise_conv.kernel_size[0] - 1, 0)))
        hidden = F.silu(self.depthwise_layer_norm(hidden.transpose(1, 2)).transpose(1, 2))
        return self.pointwise_conv2(hidden).transpose(1, 2)
