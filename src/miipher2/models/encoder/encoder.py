"""The frozen self-supervised encoder: a front end and a model's first layers, with adapters where wanted.

Knows the layers of transformers' HuBERT, WavLM, wav2vec 2.0 and w2v-BERT 2.0; knows nothing of training.
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

from miipher2.models.encoder.adapter import Adapter, WithAdapter
from miipher2.models.encoder.conv_frontend import WaveFrontEnd
from miipher2.models.encoder.logmel_frontend import HOP_SAMPLES, LogMelFrontEnd

# The feed-forward blocks of a layer, as these models name them; a conformer has two.
FEED_FORWARD = ("feed_forward", "ffn1", "ffn2")


@dataclass(frozen=True)
class Embedded:
    """What the front end made of a batch: the input of the first layer, and which frames hold audio (None: all)."""

    hidden: Float[Tensor, "batch frame dim"]
    valid: Bool[Tensor, "batch frame"] | None

    def halves(self) -> tuple["Embedded", "Embedded"]:
        """Return the first and the second half of the batch."""
        middle = len(self.hidden) // 2
        first, second = (None, None) if self.valid is None else (self.valid[:middle], self.valid[middle:])
        return Embedded(self.hidden[:middle], first), Embedded(self.hidden[middle:], second)


class SpeechEncoder(nn.Module):
    """A frozen encoder that gives `hidden_states[layer]` of the full model, 50 frames a second.

    It stays in eval whatever `train()` says, and draws nothing from the global generators when it runs.

    Args:
        layers: the layers that features are made of, side by side where they are several, so that `dim` is that many
            times the model's own; ascending, and the last is the last that `encoder` has.
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
            if parametrize.is_parametrized(module, "weight"):  # the weight norm of a frozen weight is always the same
                parametrize.remove_parametrizations(module, "weight")

    def train(self, mode: bool = True) -> "SpeechEncoder":
        """Stay in eval: in training mode transformers draws dropout, layerdrop and masks from the global generators."""
        return super().train(False)

    @property
    def adapters(self) -> nn.ModuleList:
        """Return the adapters in the order in which they are heard: all that can be trained."""
        return nn.ModuleList(block.adapter for block in self._adapted_blocks())

    def add_adapters(self, hidden_dim: int) -> None:
        """Put a parallel adapter beside every feed-forward block, drawn from the global generator.

        Raises:
            ValueError: it has adapters already.
        """
        if len(self.adapters):
            raise ValueError(f"the encoder has {len(self.adapters)} adapters already; should have none")
        device = next(self.parameters()).device
        for layer in self.encoder.layers:
            for name in FEED_FORWARD:
                if hasattr(layer, name):
                    adapter = Adapter(self.encoder.config.hidden_size, hidden_dim).to(device)
                    setattr(layer, name, WithAdapter(getattr(layer, name), adapter))
        self.train()

    def adapter_state_dict(self) -> dict[str, Tensor]:
        """Return the trained tensors and no others, named `<adapter>.<part>`."""
        return dict(self.adapters.state_dict())

    def load_adapter_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what `adapter_state_dict` returned.

        Raises:
            RuntimeError: a tensor is missing, of another shape, or one too many.
        """
        self.adapters.load_state_dict(dict(state), strict=True)

    def hold_frozen_in(self, dtype: torch.dtype) -> None:
        """Hold the frozen matrices as autocast to `dtype` would convert them in every pass: the same features, sooner.

        The encoder can then be heard under that autocast alone.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear) and not any(each.requires_grad for each in module.parameters()):
                module.to(dtype)

    @torch.no_grad()
    def embed(self, waves: Float[Tensor, "batch time"], valid_frames: Int[Tensor, " batch"] | None = None) -> Embedded:
        """Run the front end, which adapters do not touch: once is enough for the frozen and the adapted pass.

        Args:
            waves: 16 kHz; filled up to a whole frame with zeros.
            valid_frames: how many frames of each row hold audio; what follows is not heard. It is looked at, so it
                should lie on the host: on a GPU it would have to be waited for.

        Raises:
            ValueError: there is no audio, or `valid_frames` is not between 1 and the frames there are.
        """
        frames = -(-waves.shape[1] // HOP_SAMPLES)
        if frames == 0:
            raise ValueError("waves of 0 samples; should hold at least one")
        waves = F.pad(waves, (0, frames * HOP_SAMPLES - waves.shape[1]))
        if valid_frames is None or _all_valid(valid_frames, frames):  # attention is faster without a mask
            return Embedded(self._project(self.front_end(waves)), None)
        counts = valid_frames.to(waves.device, non_blocking=True)
        valid = torch.arange(frames, device=waves.device) < counts[:, None]
        waves = waves.masked_fill(~valid[:, :, None].expand(-1, -1, HOP_SAMPLES).flatten(1), 0)
        hidden = self._project(self.front_end(waves, counts))
        # The positional convolution looks past the end: a file alone sees zeros there.
        return Embedded(hidden.masked_fill(~valid[..., None], 0), valid)

    def contextualise(self, embedded: Embedded, adapted: bool) -> Float[Tensor, "batch frame dim"]:
        """Return the features of the kept layers, through the adapters or as the frozen encoder gives them.

        Raises:
            ValueError: `adapted` without adapters.
        """
        if adapted and not len(self.adapters):
            raise ValueError("the encoder has no adapters; call add_adapters first")
        # transformers draws a number for layerdrop from the global generator in eval too; the run's chance is not its.
        with self._listening(adapted), torch.random.fork_rng(devices=[]):
            return self.run_layers(embedded.hidden, embedded.valid)

    def run_layers(
        self, hidden: Float[Tensor, "batch frame hidden_dim"], valid: Bool[Tensor, "batch frame"] | None = None
    ) -> Float[Tensor, "batch frame dim"]:
        """Return what the layers that are asked for make of the front end's frames, side by side."""
        outputs: list[Tensor] = []

        def keep(layer: nn.Module, given: Any, output: Any) -> None:
            outputs.append(output[0] if isinstance(output, tuple) else output)  # WavLM's hand on their position bias

        hooks = [self.encoder.layers[number - 1].register_forward_hook(keep) for number in self.layers[:-1]]
        try:
            last = self.encoder(hidden, attention_mask=valid).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([*outputs, last], -1) if outputs else last

    def forward(
        self,
        waves: Float[Tensor, "batch time"],
        valid_frames: Int[Tensor, " batch"] | None = None,
        adapted: bool = False,
    ) -> Float[Tensor, "batch frame dim"]:
        """Return the features of 16 kHz waves: T seconds give 50 T frames."""
        return self.contextualise(self.embed(waves, valid_frames), adapted)

    def _project(self, frames: Tensor) -> Tensor:
        projected = self.projection(frames)
        # All but HuBERT also return the frames that quantisation wants.
        return projected[0] if isinstance(projected, tuple) else projected

    def _adapted_blocks(self) -> list[WithAdapter]:
        return [module for module in self.encoder.modules() if isinstance(module, WithAdapter)]

    @contextmanager
    def _listening(self, adapted: bool) -> Iterator[None]:
        blocks = self._adapted_blocks()
        for block in blocks:
            block.active = adapted
        try:
            yield
        finally:
            for block in blocks:
                block.active = False


def _all_valid(valid_frames: Int[Tensor, " batch"], frames: int) -> bool:
    """Say whether all frames of all rows hold audio."""
    counts = valid_frames.tolist()
    if min(counts) < 1 or max(counts) > frames:
        raise ValueError(f"valid_frames from {min(counts)} to {max(counts)}; should be from 1 to {frames}")
    return bool(min(counts) == frames)


def _digest(state: Mapping[str, Tensor]) -> str:
    """Return a sha256 over names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
