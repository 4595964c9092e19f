"""The base class of vocoders: features at 50 frames per second in, a wave of exact length out. Knows no loss."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from miipher2.config.schema_data import FRAMES_PER_SECOND


@dataclass(frozen=True)
class ChunkPosition:
    """Where each chunk of a batch starts in its recording, so that it continues the chunk before it.

    Args:
        first_frame: frame number of the chunk's first frame.
        phase_cycles: phase of the fundamental at the middle of that frame, in cycles from 0 to 1.
    """

    first_frame: Int[Tensor, " batch"]
    phase_cycles: Float[Tensor, " batch"]


@dataclass(frozen=True)
class FitExample:
    """A batch that a generator may fit a closed form to before training: features, clean waves, valid frames."""

    features: Float[Tensor, "batch frame dim"]
    target: Float[Tensor, "batch time"]
    valid: Bool[Tensor, "batch frame"]


class Generator(nn.Module, ABC):
    """A vocoder that makes `hop_samples` samples from each frame.

    Raises:
        ValueError: the sample rate is not a multiple of 50 Hz.
    """

    has_prenet = False  # layers that attend to all frames, for which chunks are too short
    has_phase = False  # at which a chunk continues the one before it

    def __init__(self, sample_rate_hz: int) -> None:
        super().__init__()
        if sample_rate_hz % FRAMES_PER_SECOND:
            raise ValueError(f"sample_rate_hz={sample_rate_hz}; should be a multiple of {FRAMES_PER_SECOND}")
        self.sample_rate_hz = sample_rate_hz

    @property
    def hop_samples(self) -> int:
        """Return the number of samples in a frame."""
        return self.sample_rate_hz // FRAMES_PER_SECOND

    @property
    @abstractmethod
    def context_frames(self) -> int:
        """Return how many neighbouring frames on each side affect a frame's samples."""

    @abstractmethod
    def forward(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch time"]:
        """Return waves of `hop_samples` samples per frame."""

    def run_prenet(
        self, features: Float[Tensor, "batch frame dim"], valid: Bool[Tensor, "batch frame"] | None = None
    ) -> Float[Tensor, "batch frame channel"]:
        """Return what `forward_chunk` takes: the features themselves, where there is no prenet."""
        return features

    def forward_chunk(
        self, features: Float[Tensor, "batch frame channel"], position: ChunkPosition
    ) -> Float[Tensor, "batch time"]:
        """Return the waves of chunks that start at `position`, which most generators ignore."""
        return self(features)

    def advance_phase(self, features: Float[Tensor, "frame dim"], phase_cycles: float) -> float:
        """Return the phase at the last frame, given that at the first; 0 for generators without a phase."""
        return 0.0

    def fit(self, examples: Iterable[FitExample]) -> None:
        """Fit what has a closed form, before the first step of a fresh training; most generators have nothing."""

    def training_forward(
        self,
        features: Float[Tensor, "batch frame dim"],
        target: Float[Tensor, "batch time"],
        first_frame: Int[Tensor, " batch"],
        predicted_pitch: bool = False,
    ) -> tuple[Float[Tensor, "batch time"], Float[Tensor, ""] | None]:
        """Return the waves of a training step, and an auxiliary loss where the generator has one.

        Args:
            target: the clean waves.
            first_frame: a number per example that selects its noise, as `ChunkPosition.first_frame` does.
            predicted_pitch: a harmonic generator takes the pitch that it predicts, not that of the target.
        """
        return self(features), None

    def exported_state_dict(self) -> dict[str, Tensor]:
        """Return plain weights, with weight norm folded in; the generator itself does not change."""
        state = {}
        for name, module in self.named_modules():
            if name.endswith("parametrizations") or ".parametrizations." in name:
                continue
            plain = [part for part, _ in module.named_parameters(recurse=False)]
            for part in [*plain, *(["weight"] if is_parametrized(module, "weight") else [])]:
                state[f"{name}.{part}"] = getattr(module, part).detach().clone()
        return state

    @torch.no_grad()
    def load_exported_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load exported weights and stay trainable: each weight norm's scale becomes the norm of its weight.

        Raises:
            ValueError: a tensor is missing, unexpected, or has the wrong shape; nothing is changed.
        """
        expected = {name: tuple(tensor.shape) for name, tensor in self.exported_state_dict().items()}
        actual = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if wrong := sorted(name for name in {*expected, *actual} if expected.get(name) != actual.get(name)):
            shape, expected_shape = actual.get(wrong[0], "missing"), expected.get(wrong[0], "absent")
            raise ValueError(f"{wrong[0]} is {shape}; should be {expected_shape} ({len(wrong)} tensors differ)")
        device = next(self.parameters()).device
        for name, tensor in state.items():
            owner, _, part = name.rpartition(".")
            module = self.get_submodule(owner)
            if is_parametrized(module, part):
                setattr(module, part, tensor.to(device))
            else:
                module.get_parameter(part).copy_(tensor)

    def remove_weight_norm(self) -> "Generator":
        """Replace weight norm by plain weights, in place: faster, but no longer the trained parametrization."""
        for module in list(self.modules()):
            if is_parametrized(module, "weight"):
                remove_parametrizations(module, "weight")
        return self


def context_of_upsampling(shapes: Sequence[tuple[int, int, int]], *, edge: int, block: int) -> int:
    """Return how many neighbouring frames affect a frame's samples, through transposed convolutions and blocks.

    Args:
        shapes: factor, kernel and padding of each transposed convolution, from the frames up.
        edge: values on each side that the first and the last convolution depend on.
        block: the same for what follows each transposed convolution.
    """
    low, high = -edge, math.prod(factor for factor, _, _ in shapes) - 1 + edge
    for factor, kernel, padding in reversed(shapes):
        # Output n of a transposed convolution depends on inputs i with 0 <= n + padding - i * factor < kernel.
        low = -((kernel - 1 - padding - (low - block)) // factor)
        high = (high + block + padding) // factor
    return max(edge - low, high + edge)
