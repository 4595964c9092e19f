"""AdamW for one network of a recipe, which stops all of them at the first loss or gradient that is not finite."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from miipher2.training import distributed


class NonFiniteError(ArithmeticError):
    """A loss or gradient is NaN or infinite; no parameter was changed. `step` is the number of the batch."""

    def __init__(self, text: str, step: int) -> None:
        super().__init__(text)
        self.step = step


@dataclass(frozen=True)
class _Record:
    """Loss and gradient norm of one network in one step, on their way to the host."""

    name: str
    step: int
    values: Float[Tensor, "2"]
    copied: torch.cuda.Event | None


class FiniteCheck:
    """Shared by the networks of one recipe: after a loss or gradient that is not finite, no parameter changes.

    `found_inf` is a 0 or 1 on the device, as fused optimizers take it: given a 1, an optimizer changes nothing. So no
    update waits for the device; the host reads the values one step later on CUDA (at once on the CPU, where reading is
    free), and before any state is saved.
    """

    def __init__(self, device: torch.device) -> None:
        self.found_inf: Float[Tensor, ""] = torch.zeros((), device=device)
        self.is_delayed = device.type == "cuda"
        self._records: deque[_Record] = deque()

    def record(self, name: str, step: int, loss: Float[Tensor, ""], norm: Float[Tensor, ""]) -> None:
        """Record a network's loss and gradient norm before any parameter changes.

        Raises:
            NonFiniteError: one of them is not finite, where that is read at once.
        """
        values = torch.stack([loss.detach().float(), norm.detach().float()])
        self.found_inf = torch.maximum(self.found_inf, 1 - values.isfinite().all().float())
        copied = None
        if values.is_cuda:
            values = values.to("cpu", non_blocking=True)  # into pinned memory
            copied = torch.cuda.Event()
            copied.record()
        self._records.append(_Record(name, step, values, copied))
        if not self.is_delayed:
            self.raise_if_not_finite()

    def raise_if_not_finite(self, before: int | None = None) -> None:
        """Read what was recorded in the steps before `before`; None reads all, which waits for the device.

        Raises:
            NonFiniteError: the first loss or gradient that is not finite; names network and step.
        """
        while self._records and (before is None or self._records[0].step < before):
            record = self._records.popleft()
            if record.copied is not None:
                record.copied.synchronize()
            loss, norm = (float(value) for value in record.values.numpy())
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._records.clear()
                raise NonFiniteError(
                    f"step {record.step + 1}: {record.name} has loss {loss} and gradient norm {norm}", record.step
                )


class NetworkOptimizer:
    """Clears, clips and steps its own parameters with AdamW, at the learning rate that `schedule` gives for the step.

    Args:
        finite: shared by the networks of a recipe, so that one that is not finite stops all; None: its own.

    Attributes:
        updates: that this network has had here.
        earlier_updates: that AdamW's moments have had elsewhere; see `take_over`.

    Source: Loshchilov & Hutter 2019 (arXiv:1711.05101), torch.optim.AdamW, fused on every device.
    """

    def __init__(
        self,
        name: str,
        parameters: Iterable[tuple[str, nn.Parameter]],
        schedule: Callable[[int], float],
        *,
        weight_decay: float,
        betas: tuple[float, float],
        max_grad_norm: float,
        finite: FiniteCheck | None = None,
    ) -> None:
        self.name = name
        self.parameters = dict(parameters)
        if not self.parameters:
            raise ValueError(f"{name}: there is no parameter to train")
        self.schedule = schedule
        self.max_grad_norm = max_grad_norm
        self.updates = self.earlier_updates = 0
        self.finite = finite or FiniteCheck(next(iter(self.parameters.values())).device)
        self.adamw: Any = torch.optim.AdamW(
            list(self.parameters.values()), lr=schedule(0), betas=betas, weight_decay=weight_decay, fused=True
        )

    def minimize(self, loss: Float[Tensor, ""], step: int) -> Float[Tensor, ""]:
        """Make one update and return the gradient norm before clipping.

        Raises:
            NonFiniteError: a loss or gradient is not finite, of this step or (on CUDA) the one before; no parameter
                has changed since.
        """
        norm = self.backward(loss, step)
        self.step(step)
        return norm

    def backward(self, loss: Float[Tensor, ""], step: int, *, retain_graph: bool = False) -> Float[Tensor, ""]:
        """Compute the gradient of `loss` for these parameters and no others, clip it, and return its norm before that.

        Args:
            retain_graph: another network's loss goes through the same graph afterwards.

        Raises:
            NonFiniteError: the loss or the gradient is not finite, where that is read at once.
        """
        self.adamw.zero_grad(set_to_none=True)
        loss.backward(inputs=list(self.parameters.values()), retain_graph=retain_graph)
        unreached = [name for name, parameter in self.parameters.items() if parameter.grad is None]
        assert not unreached, f"{self.name}: no gradient reaches {unreached[0]}, so no checkpoint would hold its state"
        loss = self._all_reduce(loss)
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.max_grad_norm)
        self.finite.record(self.name, step, loss, norm)
        return norm

    def step(self, step: int) -> None:
        """Step along the gradient from `backward`, unless some network's was not finite.

        Raises:
            NonFiniteError: a loss or gradient of an earlier step was not finite.
        """
        for group in self.adamw.param_groups:
            group["lr"] = self.schedule(step)
        self.adamw.found_inf = self.finite.found_inf
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        self.updates += 1
        self.finite.raise_if_not_finite(before=step)

    def _all_reduce(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Replace the gradients by their mean over all ranks, and return the mean of the loss."""
        total = loss.detach().clone().reshape(1)
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        distributed.all_reduce_mean([total, *gradients])
        return total[0]

    def optimizer_state(self) -> dict[str, Any]:
        """Return AdamW's moments by parameter name.

        Raises:
            NonFiniteError: a loss or gradient was not finite; no run could be resumed from such a state.
        """
        self.finite.raise_if_not_finite()
        state, count = self.adamw.state, torch.tensor(float(self._count))  # AdamW counts per parameter, on the device
        return {
            name: {**state[parameter], "step": count.clone()}
            for name, parameter in self.parameters.items()
            if parameter in state
        }

    def schedule_state(self) -> dict[str, Any]:
        """Return how many updates this network has had, here and, where its moments came from elsewhere, there."""
        return {"updates": self.updates} | ({"earlier_updates": self.earlier_updates} if self.earlier_updates else {})

    def take_over(self, moments: dict[str, dict[str, Tensor]], updates: int) -> None:
        """Start from moments of another training of the same network; the schedule starts at its beginning.

        Args:
            moments: `exp_avg` and `exp_avg_sq` by parameter name.
            updates: that they have had.

        Raises:
            ValueError: as `load`; nothing was changed.
        """
        count = torch.tensor(float(updates))
        optimizer = {name: {**each, "step": count.clone()} for name, each in moments.items()}
        self.load(optimizer, {"updates": 0, "earlier_updates": updates})

    @property
    def _count(self) -> int:
        return self.updates + self.earlier_updates

    def load(self, optimizer: dict[str, Any], schedule: dict[str, Any]) -> None:
        """Load the states of `optimizer_state` and `schedule_state`.

        Raises:
            ValueError: an entry is missing, unexpected or of another shape, or counts disagree; nothing was changed.
        """
        updates, earlier_updates = schedule["updates"], schedule.get("earlier_updates", 0)
        total = updates + earlier_updates
        odd = sorted(set(optimizer) ^ (set(self.parameters) if total else set()))
        if odd:
            raise ValueError(
                f"optimizer of {self.name}: {len(odd)} entries do not match the parameters, such as {odd[0]}"
            )
        for name, entry in optimizer.items():
            parameter = self.parameters[name]
            expected = dict.fromkeys(("exp_avg", "exp_avg_sq"), (parameter.dtype, parameter.shape))
            expected["step"] = (torch.float32, torch.Size())
            found = {moment: (value.dtype, value.shape) for moment, value in entry.items()}
            if found != expected:
                raise ValueError(f"optimizer of {self.name}: {name} has {found}; should have {expected}")
            if (counted := float(entry["step"])) != float(torch.tensor(float(total))):
                raise ValueError(f"optimizer of {self.name}: {name} has had {counted:.0f} updates, not {total}")
        indexed = {index: optimizer[name] for index, name in enumerate(self.parameters) if name in optimizer}
        groups = self.adamw.state_dict()["param_groups"]
        self.adamw.load_state_dict({"state": indexed, "param_groups": groups})
        self.updates, self.earlier_updates = updates, earlier_updates
