"""Training on from imported adapters with the optimizer's moments."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_recipes
import torch
from other_projects import HIDDEN, LAYERS, Original, save_encoder
from other_vocoders import SslVocoder
from safetensors.torch import load_file, save_file
from tiny_checkpoints import Command

SAME = ("optim.lr=1e-3", "optim.betas=[0.9,0.99]", "optim.weight_decay=0.02", "optim.max_grad_norm=inf")
CONSTANT = ("optim.scheduler.name=constant", "optim.scheduler.warmup_steps=0")


@pytest.fixture
def source(tmp_path: Path) -> Original:
    save_encoder(tmp_path / "source", "hubert")
    return Original(tmp_path / "source")


def imported(source: Original, folder: Path, miipher2: Command, *more: Any) -> Path:
    """Import a checkpoint into `out`, and return that folder."""
    torch.save(source.content, folder / "checkpoint.pt")
    result = miipher2("import", folder / "out", "--adapter", folder / "checkpoint.pt", *more)
    assert result.code == 0, result.error
    return folder / "out"


def start(out: Path, *more: str) -> Any:
    """Return stage 1, started from imported adapters."""
    words = (f"init_from.adapter={out}/adapter", f"model.adapter_hidden_dim={HIDDEN}")
    return tiny_recipes.adapter(out / "encoder", *words, *SAME, *more)


PARTS = {"ff.0": "norm", "ff.1": "down", "ff.3": "up"}


def ours(name: str) -> str:
    """Return our name of one of the source's adapter tensors."""
    _, number, source, kind = name.replace("ff.", "ff_").split(".")
    return f"{number}.{PARTS[source.replace('_', '.')]}.{kind}"


def test_the_next_update_is_that_of_the_source(source: Original, tmp_path: Path, miipher2: Command) -> None:
    reference = source.train()
    recipe = start(imported(source, tmp_path, miipher2, "--optimizer"), *CONSTANT)
    pairs = {name: (source.trained[name], recipe.optimizer.parameters[ours(name)]) for name in source.adapters}
    for step in range(3):
        for parameter, other in pairs.values():
            parameter.grad = torch.randn_like(parameter)
            other.grad = parameter.grad.clone()
        reference.step()
        recipe.optimizer.step(step)
    for parameter, other in pairs.values():
        torch.testing.assert_close(other, parameter, atol=1e-7, rtol=1e-6)
    fresh = start(imported(source, tmp_path / "source", miipher2), *CONSTANT)
    assert fresh.optimizer.optimizer_state() == {}


def test_a_run_that_starts_there_is_resumed_bit_for_bit(source: Original, tmp_path: Path, miipher2: Command) -> None:
    source.train()
    out = imported(source, tmp_path, miipher2, "--optimizer")
    recipe, other = start(out), start(out)
    recipe.initialise([tiny_recipes.batch()])
    at_start = tiny_recipes.read_back(recipe.state_dict())
    assert at_start["schedules"]["adapter"] == {"updates": 0, "earlier_updates": 3}
    recipe.update(tiny_recipes.batch(), 0)
    state, damaged = (tiny_recipes.read_back(recipe.state_dict()) for _ in range(2))
    assert {float(entry["step"]) for entry in state["optimizers"]["adapter"].values()} == {4.0}
    recipe.update(tiny_recipes.batch(1), 1)
    other.load_state_dict(state)
    other.update(tiny_recipes.batch(1), 1)
    assert not tiny_recipes.changed(tiny_recipes.flat(recipe.state_dict()), tiny_recipes.flat(other.state_dict()))
    other.load_state_dict(at_start)
    assert not tiny_recipes.changed(tiny_recipes.flat(at_start), tiny_recipes.flat(other.state_dict()))
    del damaged["schedules"]["adapter"]["earlier_updates"]
    with pytest.raises(ValueError, match="has had 4 updates, not 1"):
        other.load_state_dict(damaged)


def test_log_and_record_say_that_it_is_not_bit_for_bit(
    source: Original, tmp_path: Path, miipher2: Command, caplog: pytest.LogCaptureFixture
) -> None:
    source.train()
    out = imported(source, tmp_path, miipher2, "--optimizer")
    record = json.loads((out / "adapter/imported.json").read_text())
    said = next(each for each in record["not_exact"] if "moments" in each)
    assert "moments of 3 updates (lr=0.001, betas=(0.9, 0.99), eps=1e-08, weight_decay=0.02)" in said
    assert len(record["left_out"]["moments of layer norms, which stay as they are here"]) == 2 * LAYERS
    assert "optimizer_state_dict" not in record["left_out"]["entries of the checkpoint beside the model"]
    with caplog.at_level(logging.INFO):
        start(out, "optim.scheduler.warmup_steps=7")
    assert "/adapter: moments of 3 updates elsewhere; training goes on, but not bit for bit" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        start(imported(source, tmp_path / "source", miipher2), "optim.scheduler.warmup_steps=7")
    assert "/adapter: a fresh optimizer, optim.scheduler.warmup_steps=7" in caplog.text


def state(source: Original) -> dict[Any, Any]:
    entries: dict[Any, Any] = source.content["optimizer_state_dict"]["state"]
    return entries


FIRST = 2 * LAYERS  # of the adapters' tensors
REFUSED: dict[str, tuple[Callable[[Original], Any], str]] = {
    "no optimizer": (
        lambda source: source.content.pop("optimizer_state_dict"),
        "has no optimizer_state_dict with moments",
    ),
    "no moments": (lambda source: state(source).clear(), "has no optimizer_state_dict with moments"),
    "a missing tensor": (lambda source: state(source).pop(FIRST + 2), f"state.{FIRST + 2} is missing; should be step"),
    "another optimizer": (
        lambda source: state(source)[FIRST].pop("exp_avg_sq"),
        "is ['exp_avg', 'step']; should be step",
    ),
    "AMSGrad": (
        lambda source: state(source)[FIRST].update(max_exp_avg_sq=torch.ones(1)),
        "'max_exp_avg_sq', 'step']; should",
    ),
    "other counts": (lambda source: state(source)[FIRST]["step"].add_(1), "has had [3, 4] updates; should"),
    "half an update": (
        lambda source: state(source)[FIRST].update(step=0.5),
        "step is 0.5; should be a number of updates",
    ),
    "no updates": (lambda source: state(source)[FIRST].update(step=0), "step is 0; should be a number of updates"),
    "no number": (lambda source: state(source)[FIRST].update(step="3"), "step is '3'; should be a number of updates"),
    "another shape": (
        lambda source: state(source)[FIRST].update(exp_avg=torch.ones(3)),
        "exp_avg.0.norm.weight is (3,); should be (32,)",
    ),
    "a negative square": (lambda source: state(source)[FIRST]["exp_avg_sq"].neg_(), "holds values below 0"),
    "not finite": (lambda source: state(source)[FIRST]["exp_avg"].fill_(torch.nan), "holds values that are not finite"),
    "no tensor": (
        lambda source: state(source)[FIRST].update(exp_avg=1.0),
        "exp_avg.0.norm.weight is 1.0; should be a tensor",
    ),
    "other numbers": (
        lambda source: source.content["optimizer_state_dict"]["param_groups"][0]["params"].reverse(),
        "does not number its tensors from 0 to 15",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    source: Original, tmp_path: Path, miipher2: Command, name: str
) -> None:
    source.train()
    change, match = REFUSED[name]
    change(source)
    torch.save(source.content, tmp_path / "file.pt")
    result = miipher2("import", tmp_path / "out", "--adapter", tmp_path / "file.pt", "--optimizer")
    assert (result.code, result.out, result.error.count("\n")) == (2, "", 1), result.error
    assert match in result.error, result.error
    assert not (tmp_path / "out").exists()


def test_optimizer_is_for_adapters(tmp_path: Path, source: Original, miipher2: Command) -> None:
    path = SslVocoder(has_discriminators=False).save(tmp_path / "vocoder.ckpt")
    result = miipher2("import", tmp_path / "out", "--vocoder", path, "--encoder", tmp_path / "source", "--optimizer")
    assert "--optimizer: is for adapters; should come with --adapter" in result.error


def test_moments_of_other_adapters_are_an_error(source: Original, tmp_path: Path, miipher2: Command) -> None:
    source.train()
    out = imported(source, tmp_path, miipher2, "--optimizer")
    file = out / "adapter/final.safetensors"
    tensors = load_file(file)
    for change in (
        lambda: tensors.pop("optimizer.exp_avg.0.norm.bias"),
        lambda: tensors.update({"optimizer.exp_avg.0.norm.bias": torch.ones(3)}),
    ):
        change()
        save_file(tensors, file)
        with pytest.raises(ValueError, match=r"init_from\.adapter=.*does not fit adapters of this stage"):
            start(out)
