"""What networks compute in: float32, with or without TF32, or bfloat16; by what the device can do."""

import logging
import platform

import torch

log = logging.getLogger(__name__)


def choose_precision(precision: str, device: torch.device) -> str:
    """Return `fp32`, `tf32` or `bf16`: a precision that the device computes in, or `auto`, which means bf16 if it does.

    A device that would imitate bfloat16 gets fp32, which is up to 37 times as fast there, with one line of warning.
    """
    if precision not in ("auto", "bf16") or has_bfloat16(device):
        return "bf16" if precision == "auto" else precision
    log.warning("precision=%s: %s has no bfloat16 instructions; fp32 is used, which is faster there", precision, device)
    return "fp32"


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies matrices of bfloat16 by instructions of its own."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def set_tf32(precision: str) -> None:
    """Allow TF32, 10 bits of mantissa on CUDA, for convolutions under `tf32` alone, and never for matrix products.

    PyTorch's defaults would allow it for the convolutions of all float32, fp32 or not. Losses and spectra are matrix
    products, and keep their bits.
    """
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cuda.matmul.allow_tf32 = False
