"""A moving average of a module's parameters."""

import copy
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class MovingAverage(Generic[ModuleT]):
    """A copy of a module, `module`, whose parameters follow the original's: decay * own + (1 - decay) * original's.

    It begins with the original's first weights; its buffers are taken to be constants.
    """

    def __init__(self, module: ModuleT, decay: float) -> None:
        self.module: ModuleT = copy.deepcopy(module).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def follow(self, module: ModuleT, broken: Float[Tensor, ""]) -> None:
        """Take one step towards the original, unless `broken` is 1 (see `Finiteness`)."""
        share = (1 - broken) * (1 - self.decay)
        for own, original in zip(self.module.parameters(), module.parameters(), strict=True):
            own.lerp_(original, share)
