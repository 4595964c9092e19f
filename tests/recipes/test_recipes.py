"""The recipes: what an update changes, what is state, and what is exported."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipes import CPU, RECIPES, adapter, batch, changed, copied, flat, read_back, tiny, vocoder

from miipher2 import rng
from miipher2.config.load import load_config
from miipher2.config.params import compose_config
from miipher2.config.paths import ROOT
from miipher2.config.schema import MaskedPredictionConfig
from miipher2.recipes.adapter import AdapterRecipe
from miipher2.recipes.masked_prediction import MaskedPredictionRecipe, draw_mask
from miipher2.recipes.vocoder import VocoderRecipe
from miipher2.rng import stream
from miipher2.training.optimizer import NonFiniteError


def test_every_adapter_changes_and_nothing_else(encoder_folder: Path) -> None:
    recipe = adapter(encoder_folder)
    recipe.initialise([batch()])
    frozen = copied({n: p for n, p in recipe.encoder.named_parameters() if not p.requires_grad})
    trained = copied(recipe.encoder.adapter_state_dict())
    for step in range(2):  # behind the last layer, which starts at zero, gradients arrive with the second update
        recipe.update(batch(step), step)
    assert not changed(frozen, dict(recipe.encoder.named_parameters()))
    assert changed(trained, recipe.encoder.adapter_state_dict()) == set(trained)


def test_training_brings_degraded_features_nearer_to_clean_ones(encoder_folder: Path) -> None:
    recipe = adapter(encoder_folder)
    recipe.initialise([batch()])
    before = recipe.validate(batch())
    assert float(before["valid/error_ratio"]) == pytest.approx(1.0, abs=1e-4)
    for step in range(30):
        recipe.update(batch(), step)
    assert float(recipe.validate(batch())["valid/error_ratio"]) < 0.9


def test_before_the_adversarial_step_only_the_generator_changes(encoder_folder: Path) -> None:
    recipe = vocoder(encoder_folder)
    recipe.initialise([batch()])
    before = copied(recipe.state_dict()["model"])
    metrics = recipe.update(batch(), 0)
    names = changed(before, recipe.state_dict()["model"])
    assert names
    assert all(name.startswith("generator.") for name in names)
    assert "discriminator/loss" not in metrics


def test_what_is_presented_is_what_was_validated(encoder_folder: Path) -> None:
    first = adapter(encoder_folder)
    first.initialise([batch()])
    first.update(batch(), 0)
    features = first.samples(batch())[1]
    left, before = (
        (features[name] - features["clean"])[batch()["valid_frames"] == 20] for name in ("cleaned", "degraded")
    )
    assert features.keys() == {"clean", "degraded", "cleaned"}
    alone = {name: tensor[:1] for name, tensor in batch().items()}
    ratio = float(first.validate(alone)["valid/error_ratio"])
    assert float(left.square().mean() / before.square().mean()) == pytest.approx(ratio, rel=1e-3)
    for encoder_input, name in (("clean", "generated"), ("degraded", "restored")):
        second = vocoder(
            encoder_folder, "ema_decay=0.9", "model.adapter_hidden_dim=4", f"encoder_input={encoder_input}"
        )
        second.initialise([batch()])
        second.update(batch(), 0)
        (wave,) = second.samples(batch())[0].values()
        assert list(second.samples(batch())[0]) == [name]
        assert float(second.mel_distance(wave, batch()["target"])) == float(second.validate(batch())["valid/mel"])


def test_validation_changes_no_state_and_draws_nothing(encoder_folder: Path) -> None:
    for recipe in (adapter(encoder_folder), vocoder(encoder_folder, "ema_decay=0.9")):
        recipe.initialise([batch()])
        recipe.update(batch(), 3)
        before, generator_state = copied(recipe.state_dict()["model"]), rng.get_state()["torch"]
        recipe.validate(batch())
        recipe.samples(batch())
        assert not changed(before, recipe.state_dict()["model"])
        assert torch.equal(generator_state, rng.get_state()["torch"])


@pytest.mark.parametrize("name", RECIPES)
def test_a_fresh_recipe_continues_from_a_state_with_the_same_bits(encoder_folder: Path, name: str) -> None:
    one = RECIPES[name](encoder_folder)
    one.initialise([batch()])
    for step in range(4):
        one.update(batch(step), step)
    other = RECIPES[name](encoder_folder)
    other.load_state_dict(read_back(one.state_dict()))
    for recipe in (one, other):
        recipe.update(batch(9), 4)
    assert not changed(flat(one.state_dict()), flat(other.state_dict()))


def leaves_of_each_kind(state: Any) -> list[tuple[str, ...]]:
    """Return one path for each entry, network and last part of a name: a bias, a buffer, a second moment.

    Not `_u` of PyTorch's spectral norm: while it trains, it makes `_u` anew from `_v` before it reads it.
    """

    def walk(value: Any, *path: str) -> Iterator[tuple[str, ...]]:
        if not isinstance(value, dict):
            yield path
            return
        for key, inner in value.items():
            yield from walk(inner, *path, key)

    kinds: dict[tuple[str, ...], tuple[str, ...]] = {}
    for path in walk(state):
        kinds.setdefault((path[0], path[1].split(".")[0], path[-1].split(".")[-1]), path)
    return [path for path in kinds.values() if not path[-1].endswith("._u")]


@pytest.mark.parametrize("encoder_folder", ["mini"], indirect=True)
@pytest.mark.parametrize("name", ["adapter", "hifigan", "harmonic"])
def test_a_wrong_value_in_a_state_is_refused_or_changes_the_rest(encoder_folder: Path, name: str) -> None:
    recipe = RECIPES[name](encoder_folder)
    recipe.initialise([batch()])
    for step in range(4):
        recipe.update(batch(step), step)
    state = read_back(recipe.state_dict())

    def outcome(begin: Any) -> dict[str, torch.Tensor]:
        """Return the state an update later, a validation, and the exported weights."""
        recipe.load_state_dict(begin)
        recipe.update(batch(9), 4)
        return copied(flat({"state": recipe.state_dict(), "valid": recipe.validate(batch()), "out": recipe.export()}))

    whole = outcome(read_back(state))
    for path in leaves_of_each_kind(state):
        damaged = part = read_back(state)
        for key in path[:-1]:
            part = part[key]
        if isinstance(value := part[path[-1]], torch.Tensor):
            value.view(-1)[value.numel() // 2] += 1 if path[-1] in ("step", "n_averaged") else 0.1
        else:
            part[path[-1]] += 1
        try:
            again = outcome(damaged)
        except ValueError:
            continue
        assert changed(whole, again) - {"/".join(("state", *path, ""))}, path


@pytest.mark.parametrize("entry", ["model", "optimizers", "schedules", "ema"])
def test_a_state_without_an_entry_is_refused(encoder_folder: Path, entry: str) -> None:
    recipe = vocoder(encoder_folder, "ema_decay=0.9")
    recipe.initialise([batch()])
    recipe.update(batch(), 5)
    state = recipe.state_dict()
    state[entry] = {}
    with pytest.raises((ValueError, KeyError, RuntimeError)):
        vocoder(encoder_folder, "ema_decay=0.9").load_state_dict(state)


@pytest.mark.parametrize("key", ["adapter", "vocoder"])
def test_missing_upstream_weights_are_named_with_what_to_do(encoder_folder: Path, tmp_path: Path, key: str) -> None:
    config = tiny("finetune_vocoder", "hifigan_ft_mini", encoder_folder, f"init_from.{key}={tmp_path}", *no_other(key))
    with pytest.raises(FileNotFoundError, match=rf"init_from\.{key}=.*final\.safetensors is missing.*dvc repro"):
        VocoderRecipe.from_config(config, CPU, ROOT)


def no_other(key: str) -> list[str]:
    other = "vocoder" if key == "adapter" else "adapter"
    return [f"init_from.{other}=null", "model.adapter_hidden_dim=4"]


def test_a_loss_that_is_not_finite_changes_no_state(encoder_folder: Path) -> None:
    recipe = adapter(encoder_folder)
    recipe.initialise([batch()])
    recipe.update(batch(), 0)
    before = copied(flat(recipe.state_dict()))
    broken = batch()
    broken["degraded"][0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="step 2: adapter has loss nan"):
        recipe.update(broken, 1)
    assert not changed(before, flat(recipe.state_dict()))


def test_pre_training_of_the_mini_encoder_learns_and_its_encoder_loads(tmp_path: Path) -> None:
    overrides = ["model.hidden_dim=16", "model.layers=2", "model.heads=2", "model.intermediate_dim=32", "model.mels=20"]
    overrides += ["model.units=4", "precision=fp32", "optim.scheduler.warmup_steps=10"]
    composed = compose_config("mini_encoder", overrides, group="pretrain_ssl")
    config = load_config(composed, "pretrain_ssl", MaskedPredictionConfig)
    torch.manual_seed(0)
    recipe = MaskedPredictionRecipe.from_config(config, CPU, ROOT)
    frames = torch.randn(1, 7, 16)
    untrained = recipe.model.encoder(frames).last_hidden_state
    torch.testing.assert_close(untrained, torch.nn.functional.layer_norm(frames, (16,)))
    recipe.initialise([batch(seed) for seed in range(3)])
    first = float(recipe.validate(batch())["valid/loss"])
    for step in range(120):
        recipe.update(batch(step), step)
    assert float(recipe.validate(batch())["valid/loss"]) < 0.8 * first
    of_noise = recipe.validate({**batch(), "clean": batch()["degraded"]})
    assert float(recipe.validate(batch())["valid/mel"]) < float(of_noise["valid/mel"])  # it predicts the clean speech
    recipe.write_encoder(tmp_path)
    trained = AdapterRecipe.from_config(tiny("train_adapter", "adapter_mini", tmp_path), CPU, ROOT)
    assert trained.encoder.dim == 16


def test_masks_cover_about_their_share_and_are_a_function_of_the_stream() -> None:
    masks = draw_mask(stream(0, "mask", 1), (64, 100), 0.4, 8)
    assert float(masks.float().mean()) == pytest.approx(0.4, abs=0.05)
    assert torch.equal(masks, draw_mask(stream(0, "mask", 1), (64, 100), 0.4, 8))
