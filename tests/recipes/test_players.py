"""One update of the two players: who moves, by whose gradient, and what happens where something is not finite."""

from pathlib import Path

import pytest
import torch
from miipher2.training.optimizer import NonFiniteError
from tiny_recipes import HARMONIC, VOCOS, batch, copied, flat, moved, vocoder
from torch import Tensor, nn

from miipher2.recipes.vocoder import VocoderRecipe
from miipher2.training.losses import discriminator_loss, feature_matching_loss, generator_adversarial_loss


def ready(encoder_folder: Path, *more: str) -> VocoderRecipe:
    recipe = vocoder(encoder_folder, "loss.adversarial_from_step=0", *more)
    recipe.initialise([batch()])
    return recipe


def parameters_of(recipe: VocoderRecipe) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": parameter
        for name, player in (("generator", recipe.generator), ("discriminators", recipe.discriminators))
        for part, parameter in player.named_parameters()
    }


@pytest.mark.parametrize("generator", [(), VOCOS, HARMONIC], ids=["hifigan", "vocos", "harmonic"])
def test_every_parameter_of_both_players_moves_and_the_encoder_does_not(
    encoder_folder: Path, generator: tuple[str, ...]
) -> None:
    recipe = ready(encoder_folder, *generator)
    before, frozen = copied(parameters_of(recipe)), copied(dict(recipe.encoder.state_dict()))
    recipe.update(batch(), 0)
    assert moved(before, parameters_of(recipe)) == set(before)
    assert not moved(frozen, dict(recipe.encoder.state_dict()))
    assert all(parameter.grad is None for parameter in parameters_of(recipe).values())


@pytest.mark.parametrize("idle", ["generator_optimizer", "discriminator_optimizer"])
def test_with_one_player_idle_only_the_other_moves(
    encoder_folder: Path, idle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ready(encoder_folder)
    monkeypatch.setattr(getattr(recipe, idle), "apply", lambda step: None)
    before = copied(parameters_of(recipe))
    recipe.update(batch(), 5)
    player = "discriminators" if idle == "generator_optimizer" else "generator"
    assert moved(before, parameters_of(recipe)) == {name for name in before if name.startswith(player)}


def test_one_pass_gives_both_players_the_gradients_of_a_pass_for_each(
    encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same gradients as with a graph for each player, the other one held out of it."""
    recipe, calls = ready(encoder_folder), []
    found: dict[str, dict[str, Tensor]] = {}
    for updater in (recipe.generator_optimizer, recipe.discriminator_optimizer):

        def keep(step: int, updater: object = updater) -> None:
            found[updater.name] = {name: part.grad.clone() for name, part in updater.parameters.items()}

        monkeypatch.setattr(updater, "apply", keep)
    with torch.no_grad():  # in eval, spectral norm keeps its vectors
        recipe.discriminators.eval()
    hook = recipe.discriminators.register_forward_pre_hook(lambda *_: calls.append(1))
    recipe.update(batch(), 0)
    hook.remove()
    assert len(calls) == 2  # real once, fake once

    features, real = recipe._segment(batch())
    fake, judge, weights = recipe.generator(features), recipe.discriminators, recipe.loss_weights
    loss_d = discriminator_loss(judge(real), judge(fake.detach()))
    with torch.no_grad():
        known = judge(real)
    judged = judge(fake)
    loss_g = weights["mel"] * recipe.mel_distance(fake, real)
    loss_g = loss_g + weights["adversarial"] * generator_adversarial_loss(judged)
    loss_g = loss_g + weights["feature_matching"] * feature_matching_loss(known, judged)
    for updater, loss in ((recipe.discriminator_optimizer, loss_d), (recipe.generator_optimizer, loss_g)):
        names, parts = zip(*updater.parameters.items(), strict=True)
        expected = torch.autograd.grad(loss, parts)
        norm = nn.utils.get_total_norm(expected)
        assert norm < updater.max_grad_norm
        for name, gradient in zip(names, expected, strict=True):
            torch.testing.assert_close(found[updater.name][name], gradient, atol=1e-5 * float(norm), rtol=1e-4)


@pytest.mark.parametrize("late", [False, True], ids=["at once", "one step late"])
@pytest.mark.parametrize("player", ["generator", "discriminators"])
def test_what_is_not_finite_moves_neither_player_and_is_never_saved(
    encoder_folder: Path, player: str, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of one player is spoilt, between two good steps; `late` is how it is read on CUDA."""
    recipe = ready(encoder_folder, "ema_decay=0.9")
    recipe.generator_optimizer.finite.late = late
    recipe.update(batch(), 0)
    spoilt = recipe.generator_optimizer if player == "generator" else recipe.discriminator_optimizer
    collect = spoilt.collect
    monkeypatch.setattr(spoilt, "collect", lambda loss, step, **more: collect(loss * float("inf"), step, **more))
    before = copied(parameters_of(recipe) | flat(recipe.state_dict()["ema"]) | flat(recipe.state_dict()["optimizers"]))
    del before["n_averaged/"]  # torch's count, of which nothing is made

    def now() -> dict[str, Tensor]:
        average = flat(dict(recipe.average.state_dict()))
        moments = {p.name: p.optimizer.state for p in (recipe.generator_optimizer, recipe.discriminator_optimizer)}
        parts = {p.name: p.parameters for p in (recipe.generator_optimizer, recipe.discriminator_optimizer)}
        kept = {name: {part: dict(moments[name][value]) for part, value in parts[name].items()} for name in parts}
        return parameters_of(recipe) | average | flat(kept)

    said = f"step 2: {player} has loss inf"
    if late:
        recipe.update(batch(1), 1)
        assert not moved(before, now())
        monkeypatch.setattr(spoilt, "collect", collect)
        for give_up in (lambda: recipe.update(batch(2), 2), recipe.state_dict):
            remembered = list(recipe.generator_optimizer.finite._seen)
            with pytest.raises(NonFiniteError, match=said):
                give_up()
            recipe.generator_optimizer.finite._seen.extend(remembered)
    else:
        with pytest.raises(NonFiniteError, match=said):
            recipe.update(batch(1), 1)
    assert not moved(before, now())


def test_a_late_reading_costs_a_finite_run_nothing(encoder_folder: Path) -> None:
    """With or without it, the same bits."""
    one, other = ready(encoder_folder, "ema_decay=0.9"), ready(encoder_folder, "ema_decay=0.9")
    other.generator_optimizer.finite.late = True
    for step in range(3):
        for recipe in (one, other):
            recipe.update(batch(step), step)
    assert not moved(flat(one.state_dict()), flat(other.state_dict()))
