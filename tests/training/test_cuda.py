"""What only a process with CUDA shows; each test is a process of its own, in which CUDA has not started yet."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_weights import load, publish_all, wave

from miipher2.config.paths import ROOT
from miipher2.training.checkpoint import copy_to_host

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]
DEVICES = ("cpu", "cuda")
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


@needs_two
def test_only_the_device_that_is_named_is_touched() -> None:
    """No memory, no event and no generator of the other, also by pinned batches of loader workers."""
    code = """
import torch
from torch.utils.data import DataLoader
from miipher2 import rng
from miipher2.data.dataloader import _WorkerContext, _init_worker
from miipher2.training.environment import start_runtime
from miipher2.training.optimizer import FiniteCheck, NetworkOptimizer

device = start_runtime("cuda:1", True, 1)
rng.seed_all(5)
workers = {"num_workers": 2, "multiprocessing_context": _WorkerContext(), "worker_init_fn": _init_worker}
network = torch.nn.Linear(4, 4).to(device)
optimizer = NetworkOptimizer(
    "n", network.named_parameters(), lambda step: 0.1, weight_decay=0.0, betas=(0.9, 0.99), max_grad_norm=1.0
)
for step, batch in enumerate(DataLoader(torch.ones(8, 4), 2, pin_memory=True, **workers)):
    assert batch.is_pinned()
    optimizer.minimize(network(batch.to(device, non_blocking=True)).square().mean(), step)
    rng.set_state(rng.get_state())
    events = {str(record.copied.device) for record in optimizer.finite._records}
torch.cuda.synchronize()
print(torch.cuda.current_device(), *events, torch.cuda.memory_stats(0).get("allocation.all.allocated", 0))
"""
    assert run(code) == "1 cuda:1 0"


def test_the_copy_that_a_checkpoint_is_written_from_is_whole_and_pinned() -> None:
    numbers = torch.arange(1_000.0)
    copy = copy_to_host({"model": [numbers.cuda(), {"ema": (2 * numbers).cuda()}], "step": 3})
    assert torch.equal(copy["model"][0], numbers)
    assert torch.equal(copy["model"][1]["ema"], 2 * numbers)
    assert (copy["step"], copy["model"][0].is_pinned()) == (3, True)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_restorer_on_cuda_restores(precision: str, tmp_path: Path) -> None:
    """Every sample is there; what a card computes is compared by the next test."""
    publish_all(tmp_path, "mini", generator="harmonic_vocos")
    restorer = load(tmp_path, device="cuda", precision=precision, batch_size=2)
    assert (str(restorer.device), restorer.options.precision) == ("cuda:0", precision)
    assert restorer(wave(16_000), 16_000).shape == (16_000,)


@pytest.mark.parametrize("encoder", ["hubert", "mini"])
def test_restoring_waits_for_nothing_but_its_results(encoder: str, tmp_path: Path) -> None:
    """The host reads and queues ahead; a harmonic generator alone is asked for its phase from chunk to chunk."""
    publish_all(tmp_path, encoder)
    restorer = load(tmp_path, device="cuda", batch_size=2, chunk_seconds=1.0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert restorer(wave(48_000), 16_000).shape == (48_000,)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_restorer_on_cuda_restores_what_the_cpu_does(tmp_path: Path) -> None:
    """Needs a card that computes."""
    publish_all(tmp_path, "hubert")
    on_cpu, on_cuda = (load(tmp_path, device=device, precision="fp32")(wave(16_000), 16_000) for device in DEVICES)
    np.testing.assert_allclose(on_cuda, on_cpu, atol=1e-3)
