"""What the bits of a run depend on besides its configuration: device, threads, determinism, versions, code."""

import hashlib
import json
import logging
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch
import torchaudio
from tqdm import tqdm

from miipher2.atomic_io import sha256_of
from miipher2.models.device import choose_device

# They choose how the ring or tree is cut: chunks at other places are added from another rank on.
NCCL_VARIABLES = (
    *("NCCL_ALGO", "NCCL_PROTO", "NCCL_MIN_NCHANNELS", "NCCL_MAX_NCHANNELS", "NCCL_MIN_CTAS", "NCCL_MAX_CTAS"),
    *("NCCL_NTHREADS", "NCCL_BUFFSIZE", "NCCL_CROSS_NIC", "NCCL_NET", "NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE"),
)

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
_cublas_workspace = "unset"  # as it was in force when CUDA started


class _AboveProgressBar(logging.Handler):
    """Prints log lines above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record))


def log_to_stdout(level: int = logging.INFO) -> None:
    """Send log lines of this project, from a level up, to standard output as `[INFO] …`."""
    handler = _AboveProgressBar()
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    logger = logging.getLogger("miipher2")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False


def start_runtime(device: str, deterministic: bool, threads: int | None, local_rank: int | None = None) -> torch.device:
    """Set threads and determinism, and return the device; must run before CUDA starts.

    Args:
        device: `auto` (CUDA if available), `cpu`, `cuda` or `cuda:1`.
        local_rank: the process's number among those of one run on this host; `auto` and `cuda` then mean its own GPU.
        threads: for operations on the CPU; None keeps PyTorch's default, one per core.

    Raises:
        ValueError: CUDA, or the device of that number, was requested and is not available.
    """
    os.environ.setdefault(CUBLAS_VARIABLE, ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    # Otherwise each new tensor is first filled with NaN (7 % of an update on a CPU) in case it is read uninitialised.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = choose_device(device, "runtime.device=", local_rank)
    if chosen.type == "cuda":
        torch.cuda.init()
        torch.cuda.set_device(chosen)  # events, pinned memory and the global generator are those of the current device
        _start_cublas(chosen)
    return chosen


def _start_cublas(device: torch.device) -> None:
    """Let cuBLAS read its workspaces, and then take them out of the environment.

    PyTorch parses the variable by a regular expression at every matrix product, which is half of the host's time in an
    update of the adapter. Whether it is set, strict mode asks once. Each thread has workspaces of its own, so that a
    product runs in this one and another in that of backward passes: every update of every process then finds the same.
    """
    global _cublas_workspace
    ones = torch.ones(8, 8, device=device, requires_grad=True)
    (ones @ ones).sum().backward()
    _cublas_workspace = os.environ.pop(CUBLAS_VARIABLE)


def describe_environment(device: torch.device, world_size: int = 1) -> dict[str, str]:
    """Return what the bits depend on; a resume compares it."""
    on_cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchaudio": str(torchaudio.__version__),
        "numpy": numpy.__version__,
        "scipy": version("scipy"),
        "soundfile": version("soundfile"),  # its wheel contains libsndfile
        "av": version("av"),  # its wheel contains FFmpeg
        "transformers": version("transformers"),
        "cuda": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if on_cuda else "none",
        "device": torch.cuda.get_device_name(device) if on_cuda else f"cpu {torch.backends.cpu.get_cpu_capability()}",
        "world_size": str(world_size),
        "threads": str(torch.get_num_threads()),
        "deterministic": str(torch.are_deterministic_algorithms_enabled()),
        **(_describe_cuda() if on_cuda else {}),
        **({"nccl": _describe_nccl()} if on_cuda and world_size > 1 else {}),
    }


def _describe_cuda() -> dict[str, str]:
    """Return the driver, the workspaces of cuBLAS and where TF32 is allowed."""
    allowed = {"convolutions": torch.backends.cudnn.allow_tf32, "matrices": torch.backends.cuda.matmul.allow_tf32}
    try:
        driver = re.search(r"\d+\.[\d.]+", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        driver = None
    return {
        "driver": "unknown" if driver is None else driver[0],
        "cublas_workspace": _cublas_workspace,
        "tf32": ", ".join(name for name, is_allowed in allowed.items() if is_allowed) or "none",
    }


def _describe_nccl() -> str:
    """Return NCCL's version and the variables in force on which the order of a sum over GPUs depends."""
    release = ".".join(str(part) for part in torch.cuda.nccl.version())
    return ", ".join([release, *(f"{name}={os.environ[name]}" for name in NCCL_VARIABLES if name in os.environ)])


def describe_code(root: Path) -> dict[str, Any]:
    """Return a digest of the package's source, the commit and whether files differ from it; never compared."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changed = git("status", "--porcelain", "--untracked-files=no")
    dirty = None if changed is None else bool(changed)
    package = Path(__file__).parents[1]
    sources = {str(path.relative_to(package)): sha256_of(path) for path in sorted(package.rglob("*.py"))}
    digest = hashlib.sha256(json.dumps(sources).encode()).hexdigest()
    return {"code": {"commit": git("rev-parse", "HEAD"), "dirty": dirty, "sha256": digest}}
