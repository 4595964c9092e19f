"""Whether losses and gradients are finite, told to the device at once and to the host without making it wait."""

import math
from collections import deque
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


class NonFiniteError(ArithmeticError):
    """A loss or gradient is NaN or infinite; no parameter was changed. `step` is the number of the batch."""

    def __init__(self, text: str, step: int) -> None:
        super().__init__(text)
        self.step = step


@dataclass(frozen=True)
class _Seen:
    """Loss and gradient norm of one player in one step, on their way to the host."""

    name: str
    step: int
    values: Float[Tensor, "2"]
    copied: torch.cuda.Event | None


class Finiteness:
    """Watches the players of one recipe: once a loss or a gradient is not finite, nobody's parameters move any more.

    `broken` lies on the device, 0 or 1, in the form in which fused optimizers take `found_inf`: an optimizer given it
    changes nothing where it is 1. So no update waits for the device; the host reads what was seen one step later on
    CUDA (at once on the CPU, where reading costs nothing), and before any state is saved.
    """

    def __init__(self, device: torch.device) -> None:
        self.broken: Float[Tensor, ""] = torch.zeros((), device=device)
        self.late = device.type == "cuda"
        self._seen: deque[_Seen] = deque()

    def observe(self, name: str, step: int, loss: Float[Tensor, ""], norm: Float[Tensor, ""]) -> None:
        """Take note of a player's loss and gradient norm, before anybody's parameters move.

        Raises:
            NonFiniteError: one of them is not finite, where that is read at once.
        """
        values = torch.stack([loss.detach().float(), norm.detach().float()])
        self.broken = torch.maximum(self.broken, 1 - values.isfinite().all().float())
        copied = None
        if values.is_cuda:
            values = values.to("cpu", non_blocking=True)  # into pinned memory
            copied = torch.cuda.Event()
            copied.record()
        self._seen.append(_Seen(name, step, values, copied))
        if not self.late:
            self.settle()

    def settle(self, before: int | None = None) -> None:
        """Read what was seen in the steps before `before`; None: in all, which waits for the device.

        Raises:
            NonFiniteError: the first loss or gradient that is not finite; names player and step.
        """
        while self._seen and (before is None or self._seen[0].step < before):
            seen = self._seen.popleft()
            if seen.copied is not None:
                seen.copied.synchronize()
            loss, norm = (float(value) for value in seen.values.numpy())
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._seen.clear()
                raise NonFiniteError(
                    f"step {seen.step + 1}: {seen.name} has loss {loss} and gradient norm {norm}", seen.step
                )
