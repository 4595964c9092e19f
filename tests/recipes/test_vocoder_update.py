"""One update of generator and discriminators: what changes, by which gradient, and what happens at a NaN."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_recipes import HARMONIC, VOCOS, batch, changed, copied, flat, vocoder
from torch import Tensor, nn

from miipher2.models.vocoder.harmonic_vocos import HarmonicVocos
from miipher2.recipes.vocoder import VocoderRecipe
from miipher2.training.losses import discriminator_loss, feature_matching_loss, generator_adversarial_loss
from miipher2.training.optimizer import NonFiniteError


def ready(encoder_folder: Path, *more: str) -> VocoderRecipe:
    recipe = vocoder(encoder_folder, "loss.adversarial_from_step=0", *more)
    recipe.initialise([batch()])
    return recipe


def parameters_of(recipe: VocoderRecipe) -> dict[str, Tensor]:
    return {
        f"{name}.{part}": parameter
        for name, network in (("generator", recipe.generator), ("discriminators", recipe.discriminators))
        for part, parameter in network.named_parameters()
    }


@pytest.mark.parametrize("generator", [(), VOCOS, HARMONIC], ids=["hifigan", "vocos", "harmonic"])
def test_every_parameter_of_both_networks_changes_and_the_encoder_does_not(
    encoder_folder: Path, generator: tuple[str, ...]
) -> None:
    recipe = ready(encoder_folder, *generator)
    before, frozen = copied(parameters_of(recipe)), copied(dict(recipe.encoder.state_dict()))
    recipe.update(batch(), 0)
    assert changed(before, parameters_of(recipe)) == set(before)
    assert not changed(frozen, dict(recipe.encoder.state_dict()))
    assert all(parameter.grad is None for parameter in parameters_of(recipe).values())


def test_what_a_generator_has_in_closed_form_is_fitted_before_training(encoder_folder: Path) -> None:
    fresh = vocoder(encoder_folder, "ema_decay=0.9", *HARMONIC)
    drawn = copied(dict(fresh.generator.state_dict()))
    fresh.initialise(iter([batch(), batch(1)]))
    assert changed(drawn, dict(fresh.generator.state_dict())) == {"envelope.weight", "envelope.bias"}
    assert not changed(dict(fresh.generator.state_dict()), dict(fresh._exported_generator().state_dict()))


def test_other_ranks_make_no_batches_to_fit_on(encoder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miipher2.training.distributed.rank", lambda: 1)
    batches = iter([batch()])
    vocoder(encoder_folder, *HARMONIC).initialise(batches)
    assert len(list(batches)) == 1


def test_mel_distance_is_the_mean_over_windows(encoder_folder: Path) -> None:
    each = [
        ready(encoder_folder, f"loss.mel_windows={windows}").update(batch(), 0)["generator/mel"]
        for windows in ("[256]", "[1024]", "[256,1024]", "null")
    ]
    assert float(each[0]) != float(each[1])
    torch.testing.assert_close(each[2], (each[0] + each[1]) / 2)
    assert torch.equal(each[3], ready(encoder_folder).update(batch(), 0)["generator/mel"])


@pytest.mark.parametrize(("pitch", "is_predicted"), [("null", False), ("target", False), ("predicted", True)])
def test_a_harmonic_generator_trains_at_the_pitch_that_is_asked_for(
    encoder_folder: Path, pitch: str, is_predicted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, asked = ready(encoder_folder, f"loss.pitch={pitch}", *HARMONIC), []
    assert isinstance(recipe.generator, HarmonicVocos)
    predict = recipe.generator.predict_pitch
    monkeypatch.setattr(recipe.generator, "predict_pitch", lambda features: asked.append(1) or predict(features))
    recipe.update(batch(), 0)
    assert bool(asked) == is_predicted


@pytest.mark.parametrize("idle", ["generator_optimizer", "discriminator_optimizer"])
def test_with_one_network_idle_only_the_other_changes(
    encoder_folder: Path, idle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = ready(encoder_folder)
    monkeypatch.setattr(getattr(recipe, idle), "step", lambda step: None)
    before = copied(parameters_of(recipe))
    recipe.update(batch(), 5)
    network = "discriminators" if idle == "generator_optimizer" else "generator"
    assert changed(before, parameters_of(recipe)) == {name for name in before if name.startswith(network)}


def test_one_pass_gives_both_networks_the_gradients_of_separate_passes(
    encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same gradients as with a graph per network that excludes the other one."""
    recipe, calls = ready(encoder_folder), []
    gradients: dict[str, dict[str, Tensor]] = {}
    for optimizer in (recipe.generator_optimizer, recipe.discriminator_optimizer):

        def keep(step: int, optimizer: Any = optimizer) -> None:
            gradients[optimizer.name] = {name: part.grad.clone() for name, part in optimizer.parameters.items()}

        monkeypatch.setattr(optimizer, "step", keep)
    with torch.no_grad():  # in eval, spectral norm keeps its vectors
        recipe.discriminators.eval()
    hook = recipe.discriminators.register_forward_pre_hook(lambda *_: calls.append(1))
    recipe.update(batch(), 0)
    hook.remove()
    assert len(calls) == 2  # real once, fake once

    features, real = recipe._segment(batch())
    fake, discriminators, weights = recipe.generator(features), recipe.discriminators, recipe.loss_weights
    loss_d = discriminator_loss(discriminators(real), discriminators(fake.detach()))
    with torch.no_grad():
        real_views = discriminators(real)
    fake_views = discriminators(fake)
    loss_g = weights.mel * recipe.mel_distance(fake, real)
    loss_g = loss_g + weights.adversarial * generator_adversarial_loss(fake_views)
    loss_g = loss_g + weights.feature_matching * feature_matching_loss(real_views, fake_views)
    for optimizer, loss in ((recipe.discriminator_optimizer, loss_d), (recipe.generator_optimizer, loss_g)):
        names, parts = zip(*optimizer.parameters.items(), strict=True)
        expected = torch.autograd.grad(loss, parts)
        norm = nn.utils.get_total_norm(expected)
        assert norm < optimizer.max_grad_norm
        for name, gradient in zip(names, expected, strict=True):
            torch.testing.assert_close(gradients[optimizer.name][name], gradient, atol=1e-5 * float(norm), rtol=1e-4)


@pytest.mark.parametrize("is_delayed", [False, True], ids=["at once", "one step later"])
@pytest.mark.parametrize("network", ["generator", "discriminators"])
def test_a_gradient_that_is_not_finite_changes_neither_network_and_is_never_saved(
    encoder_folder: Path, network: str, is_delayed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One network's gradient is infinite between two good steps; `is_delayed` is how it is read on CUDA."""
    recipe = ready(encoder_folder, "ema_decay=0.9")
    recipe.generator_optimizer.finite.is_delayed = is_delayed
    recipe.update(batch(), 0)
    broken = recipe.generator_optimizer if network == "generator" else recipe.discriminator_optimizer
    backward = broken.backward
    monkeypatch.setattr(broken, "backward", lambda loss, step, **more: backward(loss * float("inf"), step, **more))
    before = copied(parameters_of(recipe) | flat(recipe.state_dict()["ema"]) | flat(recipe.state_dict()["optimizers"]))
    del before["n_averaged/"]  # torch's own counter, which nothing reads

    def state_of() -> dict[str, Tensor]:
        average = flat(dict(recipe.ema.state_dict()))
        moments = {p.name: p.adamw.state for p in (recipe.generator_optimizer, recipe.discriminator_optimizer)}
        parts = {p.name: p.parameters for p in (recipe.generator_optimizer, recipe.discriminator_optimizer)}
        kept = {name: {part: dict(moments[name][value]) for part, value in parts[name].items()} for name in parts}
        return parameters_of(recipe) | average | flat(kept)

    message = f"step 2: {network} has loss inf"
    if is_delayed:
        recipe.update(batch(1), 1)
        assert not changed(before, state_of())
        monkeypatch.setattr(broken, "backward", backward)
        for read in (lambda: recipe.update(batch(2), 2), recipe.state_dict):
            records = list(recipe.generator_optimizer.finite._records)
            with pytest.raises(NonFiniteError, match=message):
                read()
            recipe.generator_optimizer.finite._records.extend(records)
    else:
        with pytest.raises(NonFiniteError, match=message):
            recipe.update(batch(1), 1)
    assert not changed(before, state_of())


def test_delayed_reading_does_not_change_a_finite_run(encoder_folder: Path) -> None:
    """The bits are the same with and without it."""
    one, other = ready(encoder_folder, "ema_decay=0.9"), ready(encoder_folder, "ema_decay=0.9")
    other.generator_optimizer.finite.is_delayed = True
    for step in range(3):
        for recipe in (one, other):
            recipe.update(batch(step), step)
    assert not changed(flat(one.state_dict()), flat(other.state_dict()))
