"""The conformer layers before HiFi-GAN in the original Miipher-2 code's released vocoder: torchaudio's Conformer."""

import re
from typing import Any

import torch
from torch import Tensor

from miipher2.importing.source import SourceTensors, value_at, whole_number
from miipher2.importing.torch_file import SourceError

FIRST = "generator.input_projection.weight"
LAYER = re.compile(r"generator\.(conformer\d{1,2}\.conformer_layers\.\d{1,2})\.")
HEADS = "model.generator.conformer_num_heads"
DEFAULT_HEADS = 8  # where the configuration has none; weights do not show them
NORM_EPSILON = 1e-5  # of torch's batch norm
# The source's name of each of a layer's modules here; the convolutions of one frame are linear layers.
NAMES = {
    "first_feed_forward.norm": "ffn1.sequential.0",
    "first_feed_forward.up": "ffn1.sequential.1",
    "first_feed_forward.down": "ffn1.sequential.4",
    "attention.norm": "self_attn_layer_norm",
    "attention.query_key_value": "self_attn.in_proj",
    "attention.out": "self_attn.out_proj",
    "convolution.norm": "conv_module.layer_norm",
    "convolution.gated": "conv_module.sequential.0",
    "convolution.depthwise": "conv_module.sequential.2",
    "convolution.out": "conv_module.sequential.5",
    "second_feed_forward.norm": "ffn2.sequential.0",
    "second_feed_forward.up": "ffn2.sequential.1",
    "second_feed_forward.down": "ffn2.sequential.4",
    "last_norm": "final_layer_norm",
}
ONE_FRAME = ("convolution.gated", "convolution.out")
BATCH_NORM = "conv_module.sequential.3"


class ConformerTensors:
    """The conformer layers of a file, in the order in which they run.

    Raises:
        SourceError: a size is missing.
    """

    def __init__(self, tensors: SourceTensors, config: Any) -> None:
        self._tensors = tensors
        names = {found[1] for name in tensors.names if (found := LAYER.match(name))}
        self.layers = sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
        if not self.layers:
            raise SourceError(f"{tensors.path}: has {FIRST}, but no generator.conformer1.conformer_layers.0")
        first = f"generator.{self.layers[0]}"
        stated = value_at(config, HEADS)
        self.dim, _ = tensors.sizes(FIRST, 2)
        self.sizes = {
            "conformer_dim": self.dim,
            "conformer_hidden_dim": tensors.sizes(f"{first}.ffn1.sequential.1.weight", 2)[0],
            "conformer_layers": len(self.layers),
            "conformer_heads": DEFAULT_HEADS if stated is None else whole_number(tensors.path, HEADS, stated),
            "conformer_kernel": tensors.sizes(f"{first}.conv_module.sequential.2.weight", 3)[2],
        }

    def take(self, name: str, shape: Any) -> Tensor | None:
        """Return one of our tensors, or None where it is not of these layers."""
        module, _, part = name.rpartition(".")
        if module in ("project_in", "project_out"):
            side = "input" if module == "project_in" else "output"
            return self._tensors.take(f"generator.{side}_projection.{part}", shape)
        if (found := re.fullmatch(r"layers\.(\d+)\.(.+)", module)) is None:
            return None
        layer, inner = f"generator.{self.layers[int(found[1])]}", found[2]
        source = f"{layer}.{NAMES[inner]}{'_' if inner == 'attention.query_key_value' else '.'}{part}"
        if inner in ONE_FRAME and part == "weight":
            return self._tensors.take(source, (*shape, 1))[..., 0]
        taken = self._tensors.take(source, shape)
        if inner != "convolution.depthwise":
            return taken
        scale, mean, bias = self._batch_norm(f"{layer}.{BATCH_NORM}")
        return taken * scale[:, None, None] if part == "weight" else (taken - mean) * scale + bias

    def _batch_norm(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """Return factor, mean and bias of a batch norm that is no longer trained."""
        parts = ("weight", "bias", "running_mean", "running_var")
        weight, bias, mean, variance = (self._tensors.take(f"{name}.{part}", (self.dim,)) for part in parts)
        if bool((variance < 0).any()):
            raise SourceError(f"{self._tensors.path}: {name}.running_var holds values below 0; should be a variance")
        self._tensors.leave_out("counters of batch norms", [f"{name}.num_batches_tracked"])
        return weight * torch.rsqrt(variance + NORM_EPSILON), mean, bias
