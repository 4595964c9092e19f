"""What only a process with CUDA shows; each test is a process of its own, in which CUDA has not started yet."""

import os
import subprocess
import sys

import pytest
import torch

from miipher2.config.paths import ROOT

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
needs_two = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


def run(code: str) -> str:
    """Return what some code prints in a new process."""
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_products_do_not_parse_the_workspaces_of_cublas_again() -> None:
    """Strict mode goes on all the same, also backward, and what was in force is recorded."""
    code = """
import os, torch
from miipher2.training.environment import describe_environment, start_runtime
device = start_runtime("cuda", True, 1)
assert torch.are_deterministic_algorithms_enabled()
matrix = torch.ones(8, 8, device=device, requires_grad=True)
(matrix @ matrix).sum().backward()
print(os.environ.get("CUBLAS_WORKSPACE_CONFIG"), describe_environment(device)["cublas_workspace"])
"""
    assert run(code) == "None :4096:8"
