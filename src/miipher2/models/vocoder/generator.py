"""What a generator is: 50 features a second in, a wave of any rate that is a multiple of 50 Hz out, of exact length."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

FRAMES_PER_SECOND = 50


@dataclass(frozen=True)
class Place:
    """Where the first frame lies in its recording: what a chunk must know to go on from the one before.

    Args:
        frame: its number.
        cycles: how far the fundamental is in its cycle at the middle of that frame, from 0 to 1.
    """

    frame: Int[Tensor, " batch"]
    cycles: Float[Tensor, " batch"]


class Generator(nn.Module):
    """From features to a wave of `hop_samples` for each frame; its weights are exported without parametrizations.

    Raises:
        ValueError: the sample rate is no multiple of 50 Hz.
    """

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
    def halo_frames(self) -> int:
        """Return how many frames on each side of a frame change its samples: what a chunk must bring with it."""
        raise AssertionError(f"{type(self).__name__} does not say its halo")

    def forward(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch time"]:
        """Return waves of exactly `hop_samples` for each frame."""
        raise AssertionError(f"{type(self).__name__} makes no wave")

    def at(self, features: Float[Tensor, "batch frame dim"], place: Place) -> Float[Tensor, "batch time"]:
        """Return the waves of chunks that lie somewhere in a recording; most generators do not care where."""
        return self(features)

    def follow(self, features: Float[Tensor, "frame dim"], cycles: float) -> float:
        """Return `Place.cycles` at the last of some frames from that at the first; 0 where there is no such thing."""
        return 0.0

    def training_forward(
        self,
        features: Float[Tensor, "batch frame dim"],
        wave: Float[Tensor, "batch time"],
        first: Int[Tensor, " batch"],
    ) -> tuple[Float[Tensor, "batch time"], Float[Tensor, ""] | None]:
        """Return the waves made in training, and a loss of the generator's own where it has one.

        Args:
            wave: what should have come out.
            first: a number for each example, which chance in the generator may follow.
        """
        return self(features), None

    def exported_state_dict(self) -> dict[str, Tensor]:
        """Return plain weights with any weight norm folded in; the generator itself is left as it is."""
        state = {}
        for name, module in self.named_modules():
            if name.endswith("parametrizations") or ".parametrizations." in name:
                continue
            plain = [part for part, _ in module.named_parameters(recurse=False)]
            for part in [*plain, *(["weight"] if is_parametrized(module, "weight") else [])]:
                state[f"{name}.{part}"] = getattr(module, part).detach().clone()
        return state

    @torch.no_grad()
    def load_exported(self, state: Mapping[str, Tensor]) -> None:
        """Take exported weights and stay trainable: the norm of each weight becomes its weight norm's scale.

        Raises:
            ValueError: a tensor is missing, one too many, or of another shape; nothing was changed.
        """
        expected = {name: tuple(tensor.shape) for name, tensor in self.exported_state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if wrong := sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name)):
            found_shape, wanted = found.get(wrong[0], "missing"), expected.get(wrong[0], "absent")
            raise ValueError(f"{wrong[0]} is {found_shape}; should be {wanted} ({len(wrong)} tensors differ)")
        device = next(self.parameters()).device
        for name, tensor in state.items():
            owner, _, part = name.rpartition(".")
            module = self.get_submodule(owner)
            if is_parametrized(module, part):
                setattr(module, part, tensor.to(device))
            else:
                module.get_parameter(part).copy_(tensor)

    def fold(self) -> "Generator":
        """Replace any weight norm by plain weights, in place: faster to run, no longer what was trained."""
        for module in list(self.modules()):
            if is_parametrized(module, "weight"):
                remove_parametrizations(module, "weight")
        return self
