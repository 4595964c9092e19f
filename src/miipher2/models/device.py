"""Which device a name means: for training, restoring and evaluation alike."""

import logging
import re

import torch

log = logging.getLogger(__name__)


def choose_device(name: str, setting: str = "device=", local_rank: int | None = None) -> torch.device:
    """Return the device that a name means, and log what `auto` has chosen.

    Args:
        name: `auto` (CUDA if available), `cpu`, `cuda` or `cuda:1`.
        setting: what the user wrote before the name, for messages.
        local_rank: the process's number among those of one run on this host; `auto` and `cuda` then mean its own GPU.

    Raises:
        ValueError: the name is none of these, or there is no such device.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError(f"{setting}{name}: should be auto, cpu, cuda or cuda:<index>")
    count = torch.cuda.device_count() if name != "cpu" and torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        if name == "auto" and torch.version.cuda is not None:
            log.warning(
                "%sauto: the CPU is used; PyTorch is built for CUDA %s and finds no CUDA device (does nvidia-smi?)",
                setting,
                torch.version.cuda,
            )
        return torch.device("cpu")
    if not count:
        raise ValueError(f"{setting}{name}: PyTorch sees no CUDA device; use {setting}cpu or auto")
    _, _, index = name.partition(":")
    device = torch.device("cuda", int(index or local_rank or 0))
    if device.index >= count:
        raise ValueError(f"{setting}{name}: {device} is not among the {count} CUDA devices, cuda:0 and up")
    if name == "auto":
        log.info("%sauto: %s is used, %s", setting, device, torch.cuda.get_device_name(device))
    return device


def copy_to(device: torch.device, values: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the host on a device; on CUDA the host does not wait for the copy, from pinned memory."""
    pinned = values.pin_memory() if device.type == "cuda" else values
    return pinned.to(device, non_blocking=True)
