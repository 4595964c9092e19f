"""Named streams, and the global generators saved, checked, restored and guarded."""

import copy
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from miipher2 import rng


def draw() -> tuple[Any, ...]:
    """Draw from every global generator, both of Python's and NumPy's kinds."""
    floats = (random.random(), random.gauss(0, 1), *np.random.standard_normal(3))  # noqa: NPY002
    return (*floats, *torch.randn(3).tolist(), *torch.randperm(5).tolist())


@pytest.fixture(autouse=True)
def alone() -> Any:
    """Leave the generators to the other tests as they were."""
    with rng.guarded():
        yield


def test_a_stream_is_a_function_of_seed_and_name() -> None:
    names: list[Any] = [
        (0, "a"),
        (1, "a"),
        (0, "b"),
        (0, "a", 1),
        (0, "a", "1"),
        (0, "a", 1, 2),
        (0, "a", 12),
        (0,),
        (0, "a1"),
    ]
    drawn = [tuple(rng.stream(*name).random(4)) for name in names]
    assert len(set(drawn)) == len(names)
    assert drawn == [tuple(rng.stream(*name).random(4)) for name in names]


def test_a_stream_draws_nothing_from_the_global_generators() -> None:
    rng.seed_all(1)
    rng.stream(3, "x").random(100)
    after = draw()
    rng.seed_all(1)
    assert draw() == after


def test_streams_do_not_follow_each_other() -> None:
    draws = np.stack([rng.stream(0, "example", step, 0).standard_normal(2000) for step in range(30)])
    correlations = np.corrcoef(draws) - np.eye(30)
    assert np.abs(correlations).max() < 0.1  # 1 / sqrt(2000) is .022; the largest of 435 pairs about .08


@pytest.mark.parametrize("drawn_before", [0, 1, 7, 700])
def test_restored_generators_continue_as_if_nothing_had_been_drawn(drawn_before: int) -> None:
    """Also in the middle of a pair of normal numbers, of which Python and NumPy keep the second."""
    rng.seed_all(5)
    for _ in range(drawn_before):
        draw()
    state = rng.get_state()
    kept = copy.deepcopy(state)
    wanted = [draw() for _ in range(3)]
    rng.seed_all(77)
    rng.set_state(state)
    assert [draw() for _ in range(3)] == wanted
    assert torch.equal(state["torch"], kept["torch"]), "the saved state is a view of the living one"
    assert torch.equal(state["numpy"]["keys"], kept["numpy"]["keys"])


def test_a_state_survives_torch_save_without_pickle(tmp_path: Any) -> None:
    rng.seed_all(5)
    torch.save(rng.get_state(), tmp_path / "state")
    wanted = draw()
    rng.set_state(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == wanted


def test_a_guard_puts_everything_back_after_an_error_too() -> None:
    rng.seed_all(5)
    wanted = draw()
    rng.seed_all(5)
    with pytest.raises(ValueError, match="x"), rng.guarded():  # noqa: PT012
        draw()
        raise ValueError("x")
    assert draw() == wanted


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        *((lambda state, name=name: state.pop(name), KeyError) for name in ("python", "numpy", "torch", "cuda")),
        (lambda state: state["python"].pop("gauss"), KeyError),
        (lambda state: state["python"]["internal"].pop(), ValueError),
        (lambda state: state["python"].update(version=9), ValueError),
        (lambda state: state["numpy"].pop("keys"), KeyError),
        (lambda state: state["numpy"].update(name="PCG64"), ValueError),
        (lambda state: state["numpy"].update(keys=torch.zeros(3)), IndexError),
        (lambda state: state.update(torch=torch.zeros(7, dtype=torch.uint8)), (RuntimeError, TypeError)),
        (lambda state: state.update(torch=torch.zeros(5056)), (RuntimeError, TypeError)),
        (lambda state: state["cuda"].append(state["torch"]), ValueError),
    ],
)
def test_an_unfit_state_is_an_error_and_restores_nothing(spoil: Any, error: Any) -> None:
    rng.seed_all(5)
    wanted = draw()
    rng.seed_all(6)
    state = rng.get_state()
    rng.seed_all(5)
    spoil(state)
    with pytest.raises(error):
        rng.set_state(state)
    assert draw() == wanted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_current_cuda_device_continues_and_no_other_is_touched() -> None:
    torch.cuda.init()
    with torch.cuda.device(torch.cuda.device_count() - 1):
        rng.seed_all(5)
        state = rng.get_state()
        assert len(state["cuda"]) == 1
        offsets = [generator.get_offset() for generator in torch.cuda.default_generators]
        wanted, after = torch.rand(9, device="cuda"), rng.get_state()["cuda"][0]
        assert not torch.equal(after, state["cuda"][0])
        rng.set_state(state)
        assert [generator.get_offset() for generator in torch.cuda.default_generators] == offsets
        assert torch.equal(torch.rand(9, device="cuda"), wanted)
        assert torch.equal(rng.get_state()["cuda"][0], after)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_guard_in_which_cuda_starts_leaves_its_generator_unused() -> None:
    code = """
import torch
from miipher2 import rng
rng.seed_all(5)
with rng.guarded():
    torch.rand(9, device="cuda")
print(torch.cuda.default_generators[0].get_offset(), torch.cuda.initial_seed())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0", "5"]
