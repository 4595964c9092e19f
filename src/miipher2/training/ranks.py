"""The processes that train one run together, a rank each, as `torchrun` starts them; alone, it does nothing.

Gradients are averaged here and not by DistributedDataParallel. That lays out its buckets anew after a process's first
update, so with three ranks and more a resumed run would add in another order than one that was never stopped.
"""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

# Large enough that a message's start does not count, small enough that one travels while the next is packed.
BUCKET_BYTES = 25 * 2**20

Value = TypeVar("Value")


def local_rank() -> int | None:
    """Return the number of this process on its host, or None where it was not started as one of several."""
    return int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ and "MASTER_ADDR" in os.environ else None


def launcher() -> list[str]:
    """Return the words that start as many processes again; on several hosts each needs the rendezvous besides."""
    if count() == 1:
        return []
    here = int(os.environ.get("LOCAL_WORLD_SIZE", count()))
    hosts = ["--standalone"] if here == count() else [f"--nnodes={count() // here}"]
    return ["torchrun", *hosts, f"--nproc-per-node={here}"]


def start(device: torch.device) -> None:
    """Join the other processes, if there are any: NCCL between GPUs, gloo between CPUs and for what is no tensor.

    Raises:
        RuntimeError: another process does not come, or the GPU is not this process's own.
    """
    if local_rank() is None:
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")


def stop() -> None:
    """Leave the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process; rank 0 writes what is written."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Return how many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(items: int) -> range:
    """Return this rank's part of so many items, in order; the parts of all ranks are the whole."""
    return range(items * rank() // count(), items * (rank() + 1) // count())


def wait() -> None:
    """Wait until all have come here."""
    gather(None)


def gather(value: Value) -> list[Value]:
    """Return every rank's value, by rank."""
    if count() == 1:
        return [value]
    found: list[Any] = [None] * count()
    dist.all_gather_object(found, value)
    return found


def largest(number: int) -> int:
    """Return the largest of all ranks' numbers. It stays on the CPU and does not wait for a GPU."""
    if count() == 1:
        return number
    shared = torch.tensor(number)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return int(shared)


def average(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its mean over all ranks, in an order of adding that is always the same.

    Args:
        tensors: of one device; as many, of the same shapes, on every rank.
    """
    if count() == 1:
        return
    travelling = []
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        travelling.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
    for bucket, flat, work in travelling:
        work.wait()
        flat /= count()
        parts = flat.split([tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def mean(value: Tensor) -> Tensor:
    """Return a tensor's mean over all ranks, as a new one; no gradient passes."""
    if count() == 1:
        return value
    shared = value.detach().clone()
    average([shared])
    return shared


def mean_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Return the mean of each metric over all ranks, which have the same ones."""
    if count() == 1 or not metrics:
        return metrics
    found = gather(metrics)
    return {name: sum(each[name] for each in found) / len(found) for name in metrics}


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the tensors in groups of one type and about `BUCKET_BYTES`."""
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
