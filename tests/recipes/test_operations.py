"""The operations of an update: none makes the host wait for the device, and none is nondeterministic on CUDA."""

from pathlib import Path

import pytest
import torch
from operations import RecordedOperations
from tiny_recipes import RECIPES, batch, optimizers_of

# Operations that pass a value to the host, or have a size that only the device knows.
WAITING = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "bincount"}
WAITING |= {"index_by_mask"}
# Operations that `torch.use_deterministic_algorithms` refuses on CUDA, as the dispatcher names them.
NONDETERMINISTIC = {
    *(f"reflection_pad{n}d_backward" for n in (1, 2, 3)),
    *(f"upsample_{kind}_backward" for kind in ("linear1d", "bilinear2d", "bicubic2d", "trilinear3d")),
    *("_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "avg_pool3d_backward", "max_unpool2d"),
    *("grid_sampler_2d_backward", "_ctc_loss_backward", "histc", "kthvalue", "median", "put", "put_"),
    # Sums by index, in no fixed order where the flag is off: the overlapping views of stft, istft and fold.
    *("col2im", "as_strided_scatter", "index_add", "scatter_add"),
}


def operations_of_an_update(encoder_folder: Path, name: str) -> set[str]:
    """Return the operations of an update on a batch in which one example is padded, so that masks are in use."""
    recipe = RECIPES[name](encoder_folder)
    recipe.initialise([batch()])
    for optimizer in optimizers_of(recipe):
        optimizer.finite.is_delayed = True  # as on CUDA
    recipe.update(batch(), 2)
    with RecordedOperations() as operations:
        recipe.update(batch(1), 3)
    return set(operations.names)


@pytest.mark.parametrize("name", RECIPES)
def test_an_update_never_makes_the_host_wait_for_the_device(encoder_folder: Path, name: str) -> None:
    assert operations_of_an_update(encoder_folder, name) & WAITING == set()


@pytest.mark.parametrize("name", RECIPES)
def test_an_update_uses_no_operation_that_is_nondeterministic_on_cuda(encoder_folder: Path, name: str) -> None:
    operations = operations_of_an_update(encoder_folder, name)
    assert "convolution_backward" in operations or "mm" in operations, "the backward pass is recorded too"
    assert operations & NONDETERMINISTIC == set()


def test_the_recorder_sees_what_waits_and_what_is_nondeterministic() -> None:
    values, wave = torch.arange(4.0), torch.randn(1, 64, requires_grad=True)
    with RecordedOperations() as operations:
        values.sum().item()
        bool((values > 0).all())
        values[values > 1]
        values.nonzero()
        torch.nn.functional.pad(wave, (2, 2), mode="reflect").sum().backward()
        torch.nn.functional.interpolate(wave[None], 32, mode="linear").sum().backward()
    assert {"_local_scalar_dense", "index_by_mask", "nonzero"} <= set(operations.names) & WAITING
    assert {"reflection_pad1d_backward", "upsample_linear1d_backward"} <= set(operations.names) & NONDETERMINISTIC
