"""The processes that train one run together, one rank each, as `torchrun` starts them; with one process all is a no-op.

Gradients are averaged here and not by DistributedDataParallel, which rebuilds its buckets after a process's first
update: with three ranks or more, a resumed run would then add in another order than one that was never stopped.
"""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

# Large enough that starting a message costs nothing, small enough that one travels while the next is packed.
BUCKET_BYTES = 25 * 2**20

# Otherwise NCCL chooses by its own estimate of speed, and with the algorithm the order of a sum changes.
NCCL_DEFAULTS = {"NCCL_ALGO": "Ring", "NCCL_PROTO": "Simple"}

Value = TypeVar("Value")


def local_rank() -> int | None:
    """Return the number of this process on its host, or None where it was not started as one of several."""
    return int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ and "MASTER_ADDR" in os.environ else None


def launch_command() -> list[str]:
    """Return the words that start as many processes again; several hosts also need their rendezvous options."""
    if world_size() == 1:
        return []
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    hosts = ["--standalone"] if here == world_size() else [f"--nnodes={world_size() // here}"]
    return ["torchrun", *hosts, f"--nproc-per-node={here}"]


def init(device: torch.device) -> None:
    """Join the other processes, if any: NCCL between GPUs, gloo between CPUs and for objects.

    Raises:
        RuntimeError: another process does not join, or the GPU is not this process's own.
    """
    if local_rank() is None:
        return
    if device.type == "cuda":
        for name, value in NCCL_DEFAULTS.items():
            os.environ.setdefault(name, value)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def destroy() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process; rank 0 writes all files."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until all processes arrive here."""
    all_gather(None)


def all_gather(value: Value) -> list[Value]:
    """Return every rank's value, by rank."""
    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def all_reduce_max(number: int) -> int:
    """Return the largest of all ranks' numbers, on the CPU and without waiting for a GPU."""
    if world_size() == 1:
        return number
    shared = torch.tensor(number)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def all_reduce_mean(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all ranks, summed in an order that is always the same.

    Args:
        tensors: on one device; the same number and shapes on every rank.
    """
    if world_size() == 1:
        return
    pending = []
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        pending.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, work in pending:
        work.wait()
        flat /= world_size()
        parts = flat.split([tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by that of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, 0)


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return a tensor's mean over all ranks, as a new tensor without a gradient."""
    if world_size() == 1:
        return value
    shared = value.detach().clone()
    all_reduce_mean([shared])
    return shared


def mean_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Return the mean of each metric over all ranks, which all have the same ones."""
    if world_size() == 1 or not metrics:
        return metrics
    found = all_gather(metrics)
    return {name: sum(each[name] for each in found) / len(found) for name in metrics}


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the tensors in groups of one dtype and about `BUCKET_BYTES`."""
    buckets: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if not buckets or size > room or buckets[-1][0].dtype != tensor.dtype:
            buckets.append([])
            room = BUCKET_BYTES
        buckets[-1].append(tensor)
        room -= size
    return buckets
