"""A resumed run is the same run: in one process, on a recipe in which every kind of state matters."""

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_run import CONFIG, STATE, Tiny, TinyRecipe, content_of, differences, rewrite, same

from miipher2 import rng
from miipher2.training.checkpoint import Checkpoint, CheckpointError
from miipher2.training.optimizer import NonFiniteError

ENTRIES = Checkpoint.entries()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was never stopped; not to be written to."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    Tiny(folder)()
    return folder


def assert_same_run(folder: Path, whole: Path, entries: tuple[str, ...] = STATE) -> None:
    assert differences(folder / "checkpoint_12.pt", whole / "checkpoint_12.pt", entries) == []
    final = "published/final.safetensors"
    assert (folder / final).read_bytes() == (whole / final).read_bytes()
    if "history" in entries:
        assert (folder / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_two_fresh_runs_are_the_same(tmp_path: Path, whole: Path) -> None:
    Tiny(tmp_path / "run")()
    assert_same_run(tmp_path / "run", whole)


def test_resumed_run_is_the_same_run(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    Tiny(folder, steps=8)()
    resumed = Tiny(folder)(folder / "checkpoint_4.pt")
    assert resumed.run.start_step == 4
    assert_same_run(folder, whole)
    assert content_of(folder / "checkpoint_12.pt")["best"] == content_of(whole / "checkpoint_12.pt")["best"]


def test_five_resumes_are_one_run_with_five_parents(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    Tiny(folder, steps=2)()
    for step, until in ((2, 3), (3, 5), (5, 8), (8, 9), (9, 12)):
        Tiny(folder, steps=until, save_interval=100, keep_last_n=1)(folder / f"checkpoint_{step}.pt")
    assert_same_run(folder, whole)
    parents = content_of(folder / "checkpoint_12.pt")["parents"]
    assert [parent["step"] for parent in parents] == [2, 3, 5, 8, 9]
    assert len({parent["sha256"] for parent in parents}) == 5
    assert parents[-1]["path"] == str(folder / "checkpoint_9.pt")


@pytest.mark.parametrize(
    "changed",
    [{"log_interval": 5}, {"validation_interval": 2}, {"save_interval": 3}, {"keep_last_n": 1}, {"steps": 13}],
)
def test_intervals_may_change_on_a_resume(tmp_path: Path, whole: Path, changed: dict[str, Any]) -> None:
    folder = tmp_path / "run"
    Tiny(folder, steps=4)()
    settings: dict[str, Any] = {"save_interval": 12, **changed}
    Tiny(folder, **settings)(folder / "checkpoint_4.pt")
    if changed == {"steps": 13}:
        assert differences(folder / "checkpoint_12.pt", whole / "checkpoint_12.pt") == []
        return
    changed_rows = {"log_interval", "validation_interval"} & changed.keys()
    state = tuple(entry for entry in STATE if not (changed_rows and entry in ("history", "best")))
    assert_same_run(folder, whole, state)


def test_random_numbers_drawn_while_loading_do_no_harm(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    Tiny(folder, steps=4)()

    def pollute() -> Any:
        random.seed(99), np.random.seed(99), torch.manual_seed(99)  # noqa: NPY002

        class Polluting(TinyRecipe):
            def load_state_dict(self, state: dict[str, Any]) -> None:
                super().load_state_dict(state)
                random.random(), np.random.rand(7), torch.rand(7)  # noqa: NPY002

        return Polluting()

    Tiny(folder, make_recipe=pollute)(folder / "checkpoint_4.pt")
    assert_same_run(folder, whole)


def test_each_global_generator_matters(tmp_path: Path, whole: Path) -> None:
    draws: dict[str, Any] = {"python": random.random, "numpy": np.random.rand, "torch": lambda: torch.rand(1)}
    for name, draw in draws.items():
        folder = tmp_path / name
        Tiny(folder, steps=4)()
        Tiny(folder, before_first_update=draw)(folder / "checkpoint_4.pt")
        assert differences(folder / "checkpoint_12.pt", whole / "checkpoint_12.pt", ("model",)) == ["model"]


def test_a_stop_between_the_two_networks_never_saves_a_mixed_pair(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"

    class Stopped(BaseException):
        pass

    def stop(step: int) -> None:
        if step == 6:
            raise Stopped

    def make() -> Any:
        recipe = TinyRecipe()
        recipe.between = stop
        return recipe

    with pytest.raises(Stopped):
        Tiny(folder, make_recipe=make)()
    newest = content_of(folder / "checkpoint_4.pt")
    assert not (folder / "checkpoint_6.pt").exists()
    assert {each["updates"] for each in newest["schedules"].values()} == {4}
    Tiny(folder)(folder / "checkpoint_4.pt")
    assert_same_run(folder, whole)


# Every entry that a resume uses, and the leaves below: without any one of them the resume fails.
LEAVES = [
    *((entry,) for entry in ENTRIES),
    *(("rng", "0", name) for name in ("python", "numpy", "torch", "cuda")),
    *(("rng", "0", "python", name) for name in ("version", "internal", "gauss")),
    *(("rng", "0", "numpy", name) for name in ("name", "keys", "position", "has_gauss", "cached_gauss")),
    *(("optimizers", each) for each in "gd"),
    *(("schedules", each) for each in "gd"),
    *(("schedules", each, "updates") for each in "gd"),
    *(("optimizers", "g", "0.weight", name) for name in ("exp_avg", "exp_avg_sq", "step")),
    *(("model", name) for name in ("g.0.weight", "g.2.running_mean", "g.2.num_batches_tracked", "d.bias")),
    *(("ema", name) for name in ("n_averaged", "module.0.weight", "module.2.running_var")),
]


@pytest.mark.parametrize("leaf", LEAVES, ids=".".join)
def test_no_entry_can_be_missing(tmp_path: Path, whole: Path, leaf: tuple[str, ...]) -> None:
    def remove(content: dict[str, Any]) -> None:
        for name in leaf[:-1]:
            content = content[name]
        del content[leaf[-1]]

    file = rewrite(whole / "checkpoint_4.pt", remove, tmp_path / "checkpoint_4.pt")
    with pytest.raises(CheckpointError, match=str(file)):
        Tiny(tmp_path / "run")(file)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("entry", sorted(ENTRIES))
def test_no_entry_can_be_of_another_type(tmp_path: Path, whole: Path, entry: str) -> None:
    file = rewrite(
        whole / "checkpoint_4.pt", lambda it: it.update({entry: torch.ones(2)}), tmp_path / "checkpoint_4.pt"
    )
    with pytest.raises(CheckpointError, match=str(file)):
        Tiny(tmp_path / "run")(file)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: it["model"].update({"g.0.weight": torch.ones(3, 3)}), r"g.0.weight is float32 \[3, 3\]"),
        (lambda it: it["model"].update({"g.0.weight": it["model"]["g.0.weight"].half()}), "g.0.weight is float16"),
        (lambda it: it["model"].update({"extra": torch.ones(1)}), "extra is .*this run has none"),
        (lambda it: it["optimizers"]["g"]["0.bias"].update({"exp_avg": torch.ones(6).double()}), "0.bias has"),
        (lambda it: it["optimizers"]["g"]["0.bias"].update({"exp_avg": 3}), "exp_avg|attribute"),
        (lambda it: it["optimizers"]["d"].update({"other": {}}), "such as other"),
        (lambda it: it["rng"]["0"].update({"torch": torch.zeros(3, dtype=torch.uint8)}), "RNG|state"),
        (lambda it: it["rng"]["0"].update({"cuda": [torch.zeros(16, dtype=torch.uint8)]}), "1 CUDA devices"),
        (lambda it: it["rng"]["0"]["python"].update({"internal": [1, 2]}), "state"),
        (lambda it: it.update({"ema": {}}), "ema|Missing"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_before_anything_is_touched(
    tmp_path: Path, whole: Path, change: Any, message: str
) -> None:
    file = rewrite(whole / "checkpoint_4.pt", change, tmp_path / "checkpoint_4.pt")
    random.seed(1)
    with pytest.raises(CheckpointError, match=message):
        Tiny(tmp_path / "run")(file)
    assert not (tmp_path / "run").exists()


def test_resume_at_the_last_step_trains_nothing_and_publishes_the_same(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    Tiny(folder)()
    done = Tiny(folder)(folder / "checkpoint_12.pt")
    assert_same_run(folder, whole)
    assert done.aside is None


def test_a_loss_that_is_not_finite_stops_before_any_parameter_changes(tmp_path: Path) -> None:
    captured: dict[str, Any] = {}

    class Broken(TinyRecipe):
        def update(self, batch: Any, step: int) -> Any:
            if step != 5:
                return super().update(batch, step)
            captured["before"] = {name: tensor.clone() for name, tensor in self.state_dict()["model"].items()}
            captured["recipe"] = self
            loss = torch.stack([parameter.sum() for parameter in self.model.parameters()]).sum()
            self.generator_optimizer.minimize(loss * float("nan"), step)
            raise AssertionError

    with pytest.raises(NonFiniteError, match=r"step 6: g has loss nan .* batch 5 holds the utterances \[5, 6, 7, 8\]"):
        Tiny(tmp_path / "run", make_recipe=Broken)()
    after = captured["recipe"].state_dict()["model"]
    assert all(torch.equal(tensor, after[name]) for name, tensor in captured["before"].items())
    assert sorted(path.name for path in (tmp_path / "run").glob("*.pt")) == ["checkpoint_4.pt"]


def test_an_infinite_loss_with_finite_gradients_stops_too() -> None:
    recipe = TinyRecipe()
    loss = sum(parameter.sum() for parameter in recipe.model.parameters()) + torch.tensor(float("inf"))
    with pytest.raises(NonFiniteError, match="step 1: g has loss inf"):
        recipe.generator_optimizer.minimize(loss, 0)


def test_a_resume_with_another_configuration_records_the_new_one(tmp_path: Path, whole: Path) -> None:
    other = {**CONFIG, "model": {"dim": 6, "layer": 6}}
    Tiny(tmp_path / "run", config=other)(whole / "checkpoint_4.pt")
    assert content_of(tmp_path / "run/checkpoint_12.pt")["config"] == other


def test_the_learning_rate_follows_the_step_and_not_a_networks_own_updates() -> None:
    """Otherwise a discriminator that starts late would be behind after a resume."""
    each = TinyRecipe().discriminator_optimizer
    each.minimize(torch.stack([parameter.sum() for parameter in each.parameters.values()]).sum(), 9)
    assert each.updates == 1
    assert {group["lr"] for group in each.adamw.param_groups} == {each.schedule(9)}
    assert each.schedule(9) != each.schedule(0)


def test_a_format_1_checkpoint_resumes_without_a_warning_about_its_renamed_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file was written by the last version with format 1; `hears` is now `encoder_input`, `sources` other."""
    monkeypatch.setattr(logging.getLogger("miipher2"), "propagate", True)
    config = {**CONFIG, "encoder_input": "clean", "wandb": {}}
    environment = {"threads": "1", "world_size": "1"}
    old = Path(__file__).parent / "format_1/checkpoint_4.pt"
    resumed = Tiny(tmp_path / "run", config=config, environment=environment)(old)
    assert "Configuration changes detected" not in caplog.text
    assert resumed.run.start_step == 4
    new = content_of(tmp_path / "run/checkpoint_12.pt")
    assert new["format"] == 2
    assert new["upstream_digests"] == {"encoder": "0" * 64}


GPU = torch.zeros(16, dtype=torch.uint8)
TWO_GPUS, ONE_CPU = ({"device": "NVIDIA H200", "world_size": "2"}, {"device": "cpu AVX2", "world_size": "1"})


def trained_on_gpus(it: dict[str, Any]) -> None:
    it["rng"] = {rank: {**it["rng"]["0"], "cuda": [GPU]} for rank in "01"}
    it["environment"] = TWO_GPUS


def test_a_move_from_gpus_to_the_cpu_is_an_error_unless_it_is_allowed(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("miipher2"), "propagate", True)
    file = rewrite(whole / "checkpoint_4.pt", trained_on_gpus, tmp_path / "checkpoint_4.pt")
    with pytest.raises(CheckpointError, match="the RNG state holds 1 CUDA devices, this run uses 0"):
        Tiny(tmp_path / "run", environment=ONE_CPU)(file)
    assert not (tmp_path / "run").exists()
    Tiny(tmp_path / "run", environment=ONE_CPU, allow_other_devices=True)(file)
    assert (
        "Resuming on other devices: 2 x NVIDIA H200 -> 1 x cpu AVX2. The bits of this run are not promised."
        in caplog.messages
    )
    last = tmp_path / "run/checkpoint_12.pt"
    assert differences(last, whole / "checkpoint_12.pt") == []  # what the CPU draws goes on
    assert content_of(last)["parents"][-1]["other_devices"] == "2 x NVIDIA H200 -> 1 x cpu AVX2"


def test_a_move_to_gpus_seeds_their_generators_by_the_step(monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    """On a pretended GPU: what is restored, and that nothing but its generator is new."""
    run = Tiny(whole).run_of(TinyRecipe())
    run.start("x", whole / "checkpoint_4.pt", "warn", allow_other_devices=True)
    run.is_on_other_devices = True
    get_state, restored = rng.get_state, []
    monkeypatch.setattr(rng, "get_state", lambda: {**get_state(), "cuda": [torch.tensor(torch.initial_seed())]})
    monkeypatch.setattr(rng, "set_state", restored.append)
    run.restore_rng()
    (state,) = restored
    assert state["cuda"][0] == rng.stream(3, "rank", 0, 4).integers(2**32)
    assert same({**state, "cuda": []}, content_of(whole / "checkpoint_4.pt")["rng"]["0"])


@pytest.mark.parametrize(("device", "expected"), [("auto", 0), ("cuda", 0), ("cuda:2", 2)])
def test_an_older_file_with_the_generator_of_every_visible_gpu_is_read(
    tmp_path: Path, whole: Path, device: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def older(it: dict[str, Any]) -> None:
        it["rng"]["0"]["cuda"] = [GPU + number for number in range(8)]
        it["config"]["runtime"] = {"device": device}

    file = rewrite(whole / "checkpoint_4.pt", older, tmp_path / "checkpoint_4.pt")
    run = Tiny(whole).run_of(TinyRecipe())
    run.start("x", file, "warn")
    monkeypatch.setattr(rng, "get_state", lambda: {"cuda": [GPU]})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    state = run._rng_state()
    assert state is not None
    assert same(state["cuda"], [GPU + expected])
