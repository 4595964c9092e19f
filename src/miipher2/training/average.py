"""A moving average of a module's parameters."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class MovingAverage(AveragedModel):
    """Torch's averaged copy of a module, `module`: decay * own + (1 - decay) * original's, from the first weights on.

    Torch's own update copies its count to the device and waits for that; this one does not, and takes no broken step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__(module, use_buffers=True)
        self.decay = decay

    @torch.no_grad()
    def follow(self, module: nn.Module, broken: Float[Tensor, ""]) -> None:
        """Take one step towards the original, unless `broken` is 1 (see `Finiteness`); buffers are constants."""
        share = (1 - broken) * (1 - self.decay)
        for own, original in zip(self.module.parameters(), module.parameters(), strict=True):
            own.lerp_(original, share)
        self.n_averaged += 1
