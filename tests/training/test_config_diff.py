"""A resume names exactly what it changes, in the documented words."""

import logging
from pathlib import Path
from typing import Any

import pytest
from tiny_run import CONFIG, Tiny, TinyRecipe

from miipher2.training.checkpoint import CheckpointError
from miipher2.training.config_diff import ConfigChangedError, diff_configs, format_diff, is_harmless


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> list[str]:
    """Return the lines that were logged, as a stage prints them."""
    monkeypatch.setattr(logging.getLogger("miipher2"), "propagate", True)
    caplog.set_level(logging.INFO, "miipher2")

    class Lines(list[str]):
        def text(self) -> str:
            return "\n".join(f"[{one.levelname}] {one.getMessage()}" for one in caplog.records)

    return Lines()


def test_the_warning_has_the_documented_wording(tmp_path: Path, warnings: Any) -> None:
    Tiny(tmp_path / "run", steps=4, config=CONFIG | {"batch_size": 16})()
    new = CONFIG | {"batch_size": 32, "model": {"dim": 6, "layer": 6}}
    Tiny(tmp_path / "run", config=new)(tmp_path / "run/checkpoint_4.pt")
    assert (
        "[WARNING] Configuration changes detected:\n"
        "  - batch_size: 16 -> 32\n"
        "  - model.layer: 4 -> 6\n"
        "These changes may affect training consistency.\n"
    ) in warnings.text()


def test_fresh_and_resumed_runs_log_the_documented_messages(tmp_path: Path, warnings: Any) -> None:
    Tiny(tmp_path / "run", steps=4)()
    assert "[INFO] Starting fresh training (no checkpoint specified)\n" in warnings.text()
    assert "Resuming" not in warnings.text()
    path = tmp_path / "run/checkpoint_4.pt"
    Tiny(tmp_path / "run")(path)
    assert (
        f"[INFO] Resuming from explicitly specified checkpoint: {path}\n"
        "[INFO] Resuming from step 4\n"
        "[INFO] Restored model, optimizer, and scheduler states\n"
    ) in warnings.text()
    assert "WARNING" not in warnings.text()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"optim": {"lr": 0.1}}, {"optim": {"lr": 0.2}}, {"optim.lr": (0.1, 0.2)}),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": None}}}, {"a.b.c": (1, None)}),
        ({"a": None}, {"a": {"b": 1}}, {"a.b": (None, 1)}),
        ({"a": {"b": 1}}, {"a": None}, {"a.b": (1, None)}),
        ({}, {"precision": "bf16"}, {"precision": (None, "bf16")}),
        ({"old": 3}, {}, {"old": (3, None)}),
        ({"betas": [0.8, 0.99]}, {"betas": [0.8, 0.9]}, {"betas": ([0.8, 0.99], [0.8, 0.9])}),
        ({"betas": [1, 2]}, {"betas": [2, 1]}, {"betas": ([1, 2], [2, 1])}),
        ({"x": 1}, {"x": True}, {"x": (1, True)}),
        ({"x": "1"}, {"x": 1}, {"x": ("1", 1)}),
        ({"x": 1}, {"x": 1.0}, {}),
        ({"x": {}}, {"x": None}, {"x": ({}, None)}),
        ({"x": None}, {}, {}),
        ({"x": float("nan")}, {"x": float("nan")}, {}),
        ({"x": [1, 2]}, {"x": [1, 2]}, {}),
    ],
)
def test_nested_keys_are_compared_in_both_directions(old: Any, new: Any, expected: Any) -> None:
    assert diff_configs(old, new) == expected


@pytest.mark.parametrize(
    "key",
    [
        "name",
        "steps",
        "log_interval",
        "validation_interval",
        "checkpoint.save_interval",
        "checkpoint.resume_from",
        "wandb.mode",
        "wandb.tags",
        "loader.num_workers",
        "loader.prefetch",
        "runtime.device",
    ],
)
def test_harmless_keys_are_not_reported(key: str) -> None:
    first, _, rest = key.partition(".")
    old, new = ({first: {rest: value}} if rest else {first: value} for value in (1, 2))
    assert is_harmless(key)
    assert diff_configs(old, new) == {}


@pytest.mark.parametrize(
    "key",
    [
        "seed",
        "batch_size",
        "precision",
        "steps_per_epoch",
        "names",
        "wandb_like",
        "loaders",
        "model.hubert_layer",
        "optim.lr",
        "degradation.room",
        "data.crop_seconds",
        "runtime.threads",
        "runtime.deterministic",
        "environment.threads",
        "data_sha256",
        "upstream_digests.adapter",
    ],
)
def test_keys_that_can_alter_a_result_are_not_harmless(key: str) -> None:
    assert not is_harmless(key)


def test_changed_threads_and_versions_are_reported(tmp_path: Path, warnings: Any) -> None:
    Tiny(tmp_path / "run", steps=4)()
    environment = {"threads": "2", "torch": "3.0"}
    Tiny(tmp_path / "run", environment=environment)(tmp_path / "run/checkpoint_4.pt")
    assert "  - environment.threads: 1 -> 2\n  - environment.torch: None -> 3.0\n" in warnings.text()


def test_on_config_change_error_stops_before_anything_is_touched(tmp_path: Path) -> None:
    Tiny(tmp_path / "run", steps=4)()
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*"))
    changed = Tiny(tmp_path / "run", config=CONFIG | {"seed": 4}, on_config_change="error")
    with pytest.raises(ConfigChangedError, match="seed: 3 -> 4"):
        changed(tmp_path / "run/checkpoint_4.pt")
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "run").rglob("*")) == before
    changed.config = CONFIG | {"name": "other", "wandb": {}}
    changed(tmp_path / "run/checkpoint_4.pt")


@pytest.mark.parametrize("what", ["encoder", "rate", "ema"])
def test_an_incompatible_checkpoint_is_refused_with_both_values_named(tmp_path: Path, what: str) -> None:
    Tiny(tmp_path / "run", steps=4, config=CONFIG | {"model": {"sample_rate_hz": 16000}})()

    def make() -> TinyRecipe:
        recipe = TinyRecipe(ema=what != "ema")
        if what == "encoder":
            recipe.upstream_digests = {"encoder": "1" * 64}
        return recipe

    rate_hz = 24000 if what == "rate" else 16000
    message = {"encoder": "0{64}, this run has 1{64}", "rate": "is 16000, this run has 24000", "ema": "has an EMA"}
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=message[what]):
        Tiny(tmp_path / "run", make_recipe=make, config=CONFIG | {"model": {"sample_rate_hz": rate_hz}})(
            tmp_path / "run/checkpoint_4.pt"
        )
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_values_are_printed_as_a_configuration_writes_them() -> None:
    lines = format_diff({"a": (None, 0.1), "b": ([1, 2], "x")}).splitlines()
    assert lines[1:-1] == ["  - a: None -> 0.1", "  - b: [1, 2] -> x"]
