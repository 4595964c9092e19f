"""Which device a name means, on hosts with none, one and two GPUs; without a GPU, whose driver is pretended."""

import re

import pytest
import torch

from miipher2.models import device
from miipher2.models.device import choose_device
from miipher2.training.environment import describe_environment


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what is logged."""
    found: list[str] = []
    for level in ("info", "warning"):
        say = lambda text, *values, level=level: found.append(f"{level}: {text % values}")  # noqa: E731
        monkeypatch.setattr(device.log, level, say)
    return found


def pretend(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    monkeypatch.setattr(torch.version, "cuda", "13.0")


@pytest.mark.parametrize(
    ("gpus", "name", "local_rank", "expected", "logged"),
    [
        (0, "cpu", None, "cpu", []),
        (0, "auto", None, "cpu", ["warning: x=auto: the CPU is used; PyTorch is built for CUDA 13.0 and finds no"]),
        (2, "auto", None, "cuda:0", ["info: x=auto: cuda:0 is used, NVIDIA H200"]),
        (2, "auto", 1, "cuda:1", ["info: x=auto: cuda:1 is used, NVIDIA H200"]),
        (2, "cuda", 1, "cuda:1", []),
        (2, "cuda:0", 1, "cuda:0", []),
        (2, "cpu", None, "cpu", []),
    ],
)
def test_a_name_means_a_device_and_auto_says_which(
    gpus: int, name: str, local_rank: int | None, expected: str, logged: list[str],
    monkeypatch: pytest.MonkeyPatch, lines: list[str],
) -> None:  # fmt: skip
    pretend(monkeypatch, gpus)
    assert str(choose_device(name, "x=", local_rank)) == expected
    assert len(lines) == len(logged)
    assert all(line.startswith(start) for line, start in zip(lines, logged, strict=True))


@pytest.mark.parametrize(
    ("gpus", "name", "message"),
    [
        (0, "cuda", "--device cuda: PyTorch sees no CUDA device; use --device cpu or auto"),
        (0, "cuda:3", "--device cuda:3: PyTorch sees no CUDA device; use --device cpu or auto"),
        (2, "cuda:2", "--device cuda:2: cuda:2 is not among the 2 CUDA devices, cuda:0 and up"),
        (2, "cuda:x", "--device cuda:x: should be auto, cpu, cuda or cuda:<index>"),
        (2, "gpu", "--device gpu: should be auto, cpu, cuda or cuda:<index>"),
    ],
)
def test_a_wrong_name_is_one_line(gpus: int, name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpus)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        choose_device(name, "--device ")


def test_driver_and_tf32_are_recorded_on_cuda_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    on_cuda = describe_environment(torch.device("cuda", 0))
    assert on_cuda["tf32"] == "convolutions"
    assert on_cuda["driver"]
    assert not {"tf32", "driver"} & describe_environment(torch.device("cpu")).keys()
