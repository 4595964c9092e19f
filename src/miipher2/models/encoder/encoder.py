"""The frozen self-supervised encoder: a front end and the first layers of a model, with optional adapters.

Knows the layers of HuBERT, WavLM, wav2vec 2.0 and w2v-BERT 2.0, ours and transformers'; knows nothing of training.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils import parametrize

from miipher2.config.schema_data import HOP_SAMPLES
from miipher2.models.encoder.adapter import AdaptedBlock, Adapter
from miipher2.models.encoder.conv_frontend import WaveFrontEnd
from miipher2.models.encoder.logmel_frontend import LogMelFrontEnd

# Names of a layer's feed-forward blocks; a conformer has two.
FEED_FORWARD = ("feed_forward", "ffn1", "ffn2")


@dataclass(frozen=True)
class EncoderFrames:
    """The input of the first layer, and which frames are valid (None: all)."""

    hidden: Float[Tensor, "batch frame dim"]
    valid: Bool[Tensor, "batch frame"] | None

    def halves(self) -> tuple["EncoderFrames", "EncoderFrames"]:
        """Return the first and the second half of the batch."""
        middle = len(self.hidden) // 2
        first, second = (None, None) if self.valid is None else (self.valid[:middle], self.valid[middle:])
        return EncoderFrames(self.hidden[:middle], first), EncoderFrames(self.hidden[middle:], second)


class SpeechEncoder(nn.Module):
    """A frozen encoder that returns `hidden_states[layer]` of the full model, 50 frames per second.

    It stays in eval whatever `train()` asks, and draws nothing from the global generators.

    Args:
        layers: whose outputs are the features, side by side if several, so that `dim` is that many times the model's
            own; ascending, and the last is the last layer of `encoder`.
    """

    def __init__(
        self, front_end: WaveFrontEnd | LogMelFrontEnd, projection: nn.Module, encoder: Any, layers: Sequence[int]
    ) -> None:
        super().__init__()
        self.front_end = front_end
        self.projection = projection
        self.encoder: Any = encoder
        self.layers = tuple(layers)
        self.dim = int(encoder.config.hidden_size) * len(self.layers)
        self.requires_grad_(False)
        self.train()
        self.digest = _digest(self.state_dict())
        for module in list(self.modules()):
            if parametrize.is_parametrized(module, "weight"):  # weight norm of a frozen weight is constant
                parametrize.remove_parametrizations(module, "weight")

    def train(self, mode: bool = True) -> "SpeechEncoder":
        """Stay in eval: in training mode transformers draws dropout, layerdrop and masks from the global generators."""
        return super().train(False)

    @property
    def adapters(self) -> nn.ModuleList:
        """Return the adapters from the first layer to the last: all that can be trained."""
        return nn.ModuleList(block.adapter for block in self._adapted_blocks())

    def add_adapters(self, hidden_dim: int) -> None:
        """Add a parallel adapter to every feed-forward block, initialised from the global generator.

        Raises:
            ValueError: it already has adapters.
        """
        if len(self.adapters):
            raise ValueError(f"the encoder has {len(self.adapters)} adapters already; should have none")
        device = next(self.parameters()).device
        for layer in self.encoder.layers:
            for name in FEED_FORWARD:
                if hasattr(layer, name):
                    adapter = Adapter(self.encoder.config.hidden_size, hidden_dim).to(device)
                    setattr(layer, name, AdaptedBlock(getattr(layer, name), adapter))
        self.train()

    def adapter_state_dict(self) -> dict[str, Tensor]:
        """Return the trained tensors only, named `<adapter>.<part>`."""
        return dict(self.adapters.state_dict())

    def load_adapter_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the result of `adapter_state_dict`.

        Raises:
            RuntimeError: a tensor is missing, unexpected, or has the wrong shape.
        """
        self.adapters.load_state_dict(dict(state), strict=True)

    def cast_frozen_weights(self, dtype: torch.dtype) -> None:
        """Convert the frozen matrices once, as autocast to `dtype` would in every pass: the same features, sooner.

        From then on the encoder runs only under that autocast.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear) and not any(each.requires_grad for each in module.parameters()):
                module.to(dtype)

    @torch.no_grad()
    def extract_frames(
        self, waves: Float[Tensor, "batch time"], valid_frames: Int[Tensor, " batch"] | None = None
    ) -> EncoderFrames:
        """Run the front end, which adapters do not affect: the frozen and the adapted pass share its output.

        Args:
            waves: at 16 kHz; padded with zeros to a whole frame.
            valid_frames: number of valid frames in each row; the rest is ignored. Keep it on the host: its values are
                read here, which would otherwise wait for the device.

        Raises:
            ValueError: the waves are empty, or `valid_frames` is not between 1 and the number of frames.
        """
        frames = -(-waves.shape[1] // HOP_SAMPLES)
        if frames == 0:
            raise ValueError("waves of 0 samples; should hold at least one")
        waves = F.pad(waves, (0, frames * HOP_SAMPLES - waves.shape[1]))
        if valid_frames is None or _are_all_valid(valid_frames, frames):  # attention is faster without a mask
            return EncoderFrames(self.project(self.front_end(waves)), None)
        counts = valid_frames.to(waves.device, non_blocking=True)
        valid = torch.arange(frames, device=waves.device) < counts[:, None]
        waves = waves.masked_fill(~valid[:, :, None].expand(-1, -1, HOP_SAMPLES).flatten(1), 0)
        hidden = self.project(self.front_end(waves, counts))
        # The positional convolution reads beyond the last valid frame, where an utterance alone has zeros.
        return EncoderFrames(hidden.masked_fill(~valid[..., None], 0), valid)

    def encode_frames(
        self, frames: EncoderFrames, adapted: bool, strength: float = 1.0
    ) -> Float[Tensor, "batch frame dim"]:
        """Return the features, with the adapters or from the frozen encoder alone.

        Args:
            strength: what the adapters add is multiplied by it.

        Raises:
            ValueError: `adapted` without adapters.
        """
        if adapted and not len(self.adapters):
            raise ValueError("the encoder has no adapters; call add_adapters first")
        # transformers draws a number for layerdrop from the global generator even in eval.
        with self._adapters_at(strength if adapted else 0.0), torch.random.fork_rng(devices=[]):
            return self.run_layers(frames.hidden, frames.valid)

    def run_layers(
        self, hidden: Float[Tensor, "batch frame hidden_dim"], valid: Bool[Tensor, "batch frame"] | None = None
    ) -> Float[Tensor, "batch frame dim"]:
        """Return the outputs of `layers`, side by side, with the adapters as they are."""
        outputs = layer_outputs(self.encoder, self.layers, hidden, valid)
        return torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]

    def forward(
        self,
        waves: Float[Tensor, "batch time"],
        valid_frames: Int[Tensor, " batch"] | None = None,
        adapted: bool = False,
        strength: float = 1.0,
    ) -> Float[Tensor, "batch frame dim"]:
        """Return the features of 16 kHz waves: T seconds give 50 T frames."""
        return self.encode_frames(self.extract_frames(waves, valid_frames), adapted, strength)

    def project(self, frames: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch frame hidden_dim"]:
        """Return the front end's frames as the input of the first layer."""
        projected = self.projection(frames)
        return projected[0] if isinstance(projected, tuple) else projected  # all but HuBERT add its input

    def _adapted_blocks(self) -> list[AdaptedBlock]:
        return [module for module in self.encoder.modules() if isinstance(module, AdaptedBlock)]

    @contextmanager
    def _adapters_at(self, strength: float) -> Iterator[None]:
        blocks = self._adapted_blocks()
        for block in blocks:
            block.strength = strength
        try:
            yield
        finally:
            for block in blocks:
                block.strength = 0.0


def layer_outputs(
    encoder: Any,
    layers: Sequence[int],
    hidden: Float[Tensor, "batch frame hidden_dim"],
    valid: Bool[Tensor, "batch frame"] | None,
) -> list[Float[Tensor, "batch frame hidden_dim"]]:
    """Run a model's layers and return the outputs of some, which are numbered from 1."""
    outputs: list[Tensor] = []

    def keep(layer: nn.Module, inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)  # WavLM adds its position bias

    hooks = [encoder.layers[number - 1].register_forward_hook(keep) for number in layers]
    try:
        encoder(hidden, attention_mask=valid)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _are_all_valid(valid_frames: Int[Tensor, " batch"], frames: int) -> bool:
    """Return whether all frames of all rows are valid."""
    counts = valid_frames.tolist()
    if min(counts) < 1 or max(counts) > frames:
        raise ValueError(f"valid_frames from {min(counts)} to {max(counts)}; should be from 1 to {frames}")
    return bool(min(counts) == frames)


def _digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
