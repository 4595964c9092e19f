"""Updates run with deterministic algorithms alone, and CUDA gives the same bits again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipes import CPU, RECIPES, batch, changed, copied, flat, read_back

from miipher2.training.environment import start_runtime
from miipher2.training.optimizer import NonFiniteError


@pytest.fixture
def strict() -> Iterator[None]:
    """Allow deterministic algorithms only."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def cuda() -> Iterator[torch.device]:
    """Return a CUDA device as a stage starts it."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    yield start_runtime("cuda", True, None)
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.benchmark = before[1]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.usefixtures("strict")
def test_two_runs_are_the_same_with_deterministic_algorithms_alone(encoder_folder: Path, name: str) -> None:
    assert not changed(*(flat(run(name, encoder_folder, CPU)) for _ in range(2)))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_resumed_run_on_cuda_is_the_same_run(
    encoder_folder: Path, name: str, precision: str, cuda: torch.device
) -> None:
    whole = run(name, encoder_folder, cuda, f"precision={precision}")
    half = read_back(run(name, encoder_folder, cuda, f"precision={precision}", stop=3))
    resumed = run(name, encoder_folder, cuda, f"precision={precision}", start=3, state=half)
    assert not changed(flat(whole), flat(resumed))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", RECIPES)
def test_an_update_on_cuda_never_makes_the_host_wait(
    encoder_folder: Path, name: str, precision: str, cuda: torch.device
) -> None:
    recipe = RECIPES[name](encoder_folder, f"precision={precision}", device=cuda)
    recipe.initialise([batch()])
    pinned = [{key: tensor.pin_memory() for key, tensor in batch(seed).items()} for seed in range(2)]
    for step in range(3):
        recipe.update(pinned[0], step)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        recipe.update(pinned[1], 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_loss_that_is_not_finite_is_reported_one_step_later_on_cuda_and_changes_nothing(
    encoder_folder: Path, cuda: torch.device
) -> None:
    recipe = RECIPES["adapter"](encoder_folder, device=cuda)
    recipe.initialise([batch()])
    recipe.update(batch(), 0)
    broken = batch()
    broken["degraded"][0, 0] = float("nan")
    before = copied(recipe.encoder.adapter_state_dict())
    recipe.update(broken, 1)
    assert not changed(before, recipe.encoder.adapter_state_dict())
    with pytest.raises(NonFiniteError, match="step 2: adapter has loss nan"):
        recipe.update(batch(), 2)
    assert not changed(before, recipe.encoder.adapter_state_dict())
    recipe.update(broken, 3)
    with pytest.raises(NonFiniteError, match="step 4: adapter has loss nan"):
        recipe.state_dict()


def run(
    name: str, folder: Path, device: torch.device, *more: str, start: int = 0, stop: int = 6, state: Any = None
) -> dict[str, Any]:
    """Make the updates of some steps, fresh or from a state, and return the state after them."""
    recipe = RECIPES[name](folder, *more, device=device)
    if state is None:
        recipe.initialise([batch()])
    else:
        recipe.load_state_dict(state)
    for step in range(start, stop):
        recipe.update(batch(step), step)
    state_after: dict[str, Any] = read_back(recipe.state_dict())
    return state_after
