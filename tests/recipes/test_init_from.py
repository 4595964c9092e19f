"""What a stage starts from: published folders, bundles, and what does not fit or is not there."""

import json
import logging
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from local_hub import LocalHub, local_hub
from omegaconf import OmegaConf
from safetensors.torch import save_file
from tiny_recipes import CPU, HARMONIC, VOCOS, adapter, batch, changed, tiny, vocoder

from miipher2.atomic_io import sha256_of
from miipher2.config.params import compose_config
from miipher2.config.paths import ROOT
from miipher2.config.resume_routing import init_files
from miipher2.inference.bundle import save_bundle
from miipher2.inference.weights import load_published
from miipher2.recipes.adapter import AdapterRecipe
from miipher2.recipes.vocoder import VocoderRecipe

__all__ = ["local_hub"]  # a fixture

pytestmark = pytest.mark.parametrize("encoder_folder", ["mini"], indirect=True)


def publish(recipe: Any, config: Any, folder: Path) -> Path:
    """Write what a stage publishes: configuration, weights, and a checkpoint's description."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(asdict(config)))
    (folder / "checkpoint_4.json").write_text(json.dumps({"step": 4, "upstream_digests": recipe.upstream_digests}))
    for file, weights in recipe.export().items():
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / f"{file}.safetensors")
    return folder


def publish_adapter(encoder_folder: Path, folder: Path) -> AdapterRecipe:
    recipe = adapter(encoder_folder)
    recipe.initialise([batch()])
    for step in range(4):
        recipe.update(batch(step), step)
    publish(recipe, tiny("train_adapter", "adapter_mini", encoder_folder), folder)
    return recipe


def publish_vocoder(encoder_folder: Path, folder: Path, *more: str) -> VocoderRecipe:
    recipe = vocoder(encoder_folder, *more)
    recipe.initialise([batch()])
    for step in range(4 if recipe.generator.sample_rate_hz == 16_000 else 0):  # the batch's rate
        recipe.update(batch(step), step)
    publish(recipe, tiny("pre_train_vocoder", "hifigan_pretrain_mini", encoder_folder, *more), folder)
    return recipe


def start_adapter(encoder_folder: Path, *more: str) -> AdapterRecipe:
    return AdapterRecipe.from_config(tiny("train_adapter", "adapter_mini", encoder_folder, *more), CPU, ROOT)


def start_vocoder(encoder_folder: Path, *more: str) -> VocoderRecipe:
    common = ("model.adapter_hidden_dim=4", "init_from.adapter=null", "init_from.vocoder=null")
    return VocoderRecipe.from_config(
        tiny("finetune_vocoder", "hifigan_ft_mini", encoder_folder, *common, *more), CPU, ROOT
    )


def test_stage_1_starts_from_adapters_and_their_statistics(encoder_folder: Path, tmp_path: Path) -> None:
    first = publish_adapter(encoder_folder, tmp_path / "adapter")
    second = start_adapter(encoder_folder, f"init_from.adapter={tmp_path / 'adapter'}")
    second.initialise([])
    assert not changed(first._weights(), second._weights())
    assert set(second.upstream_digests) == {"encoder", "adapter"}
    assert changed(first._weights(), start_adapter(encoder_folder)._weights())


def test_stage_1_fits_statistics_where_adapters_come_without(encoder_folder: Path, tmp_path: Path) -> None:
    first = publish_adapter(encoder_folder, tmp_path / "adapter")
    file, own = tmp_path / "adapter/final.safetensors", first.export()["final"]
    identity = {"normaliser.mean": torch.zeros(first.encoder.dim), "normaliser.std": torch.ones(first.encoder.dim)}
    save_file({**own, **identity}, file)
    second = start_adapter(encoder_folder, f"init_from.adapter={tmp_path / 'adapter'}")
    second.initialise([batch()])
    assert not changed(first._weights(), second._weights())


def test_stage_1_starts_from_a_folder_on_the_hub(encoder_folder: Path, tmp_path: Path, local_hub: LocalHub) -> None:
    first = publish_adapter(encoder_folder, tmp_path / "adapter")
    revision = local_hub.add_folder("owner/name", tmp_path / "adapter")
    for name in (f"owner/name@{revision}", "owner/name"):
        second = start_adapter(encoder_folder, f"init_from.adapter={name}")
        second.initialise([])
        assert not changed(first._weights(), second._weights())
        assert second.upstream_digests["adapter"] == sha256_of(tmp_path / "adapter/final.safetensors")
    with pytest.raises(FileNotFoundError, match=r"init_from.adapter=owner/none: .*there is no repository owner/none"):
        start_adapter(encoder_folder, "init_from.adapter=owner/none")


@pytest.mark.parametrize("generator", [(), VOCOS, HARMONIC], ids=["hifigan", "vocos", "harmonic"])
def test_every_stage_starts_from_a_bundle(encoder_folder: Path, tmp_path: Path, generator: tuple[str, ...]) -> None:
    first = publish_adapter(encoder_folder, tmp_path / "adapter")
    second = publish_vocoder(encoder_folder, tmp_path / "vocoder", *generator)
    weights = load_published(tmp_path / "adapter", tmp_path / "vocoder", ROOT)
    bundle = tmp_path / "bundle"
    save_bundle(
        weights,
        bundle,
        precision="fp32",
        encoder_from=None,
        discriminators=tmp_path / "vocoder/discriminators.safetensors",
    )
    one = start_adapter(encoder_folder, f"init_from.adapter={bundle}")
    assert not changed(first._weights(), one._weights())
    both = (f"init_from.adapter={bundle}", f"init_from.vocoder={bundle}")
    three = start_vocoder(encoder_folder, *both, *generator)
    assert not changed(first.encoder.adapter_state_dict(), three.encoder.adapter_state_dict())
    features = second._features(batch())
    with torch.no_grad():
        assert torch.allclose(three.generator(features), second.generator(features), atol=1e-5)
    assert not changed(dict(second.discriminators.state_dict()), dict(three.discriminators.state_dict()))
    assert set(three.upstream_digests) == {"encoder", "adapter", "vocoder"}


def test_weights_published_before_a_setting_existed_can_be_started_from(encoder_folder: Path, tmp_path: Path) -> None:
    older = [word for word in HARMONIC if "envelope_mels" not in word] + ["model.generator.envelope_mels=null"]
    second = publish_vocoder(encoder_folder, tmp_path / "vocoder", *older)
    config = tmp_path / "vocoder/config.yaml"
    text = config.read_text()
    assert "    envelope_mels: null\n" in text
    config.write_text(text.replace("    envelope_mels: null\n", ""))
    third = start_vocoder(encoder_folder, f"init_from.vocoder={tmp_path / 'vocoder'}", *older)
    assert not changed(second.export()["final"], third.export()["final"])
    with pytest.raises(ValueError, match=r"was trained with model\.generator="):
        start_vocoder(encoder_folder, f"init_from.vocoder={tmp_path / 'vocoder'}", *HARMONIC)


def test_discriminators_that_are_missing_start_fresh_and_the_log_says_so(
    encoder_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    second = publish_vocoder(encoder_folder, tmp_path / "vocoder")
    (tmp_path / "vocoder/discriminators.safetensors").rename(tmp_path / "discriminators.safetensors")
    with caplog.at_level(logging.INFO):
        third = start_vocoder(encoder_folder, f"init_from.vocoder={tmp_path / 'vocoder'}")
    assert f"init_from.vocoder={tmp_path / 'vocoder'} has no discriminators: they start fresh" in caplog.text
    assert changed(dict(second.discriminators.state_dict()), dict(third.discriminators.state_dict()))
    features = second._features(batch())
    with torch.no_grad():
        assert torch.allclose(third.generator(features), second.generator(features), atol=1e-5)


def test_discriminators_come_from_elsewhere(encoder_folder: Path, tmp_path: Path) -> None:
    second = publish_vocoder(encoder_folder, tmp_path / "vocoder")
    third = start_vocoder(encoder_folder, f"init_from.discriminators={tmp_path / 'vocoder'}")
    assert not changed(dict(second.discriminators.state_dict()), dict(third.discriminators.state_dict()))
    assert changed(second.export()["final"], third.export()["final"])
    assert set(third.upstream_digests) == {"encoder", "discriminators"}


@pytest.mark.parametrize(
    ("stage", "override", "sides"),
    [
        ("adapter", "model.hubert_layer=1", ["hubert_layer=2", "has 1"]),
        ("adapter", "model.adapter_hidden_dim=6", ["adapter_hidden_dim=4", "has 6"]),
        ("vocoder", "model.hubert_layer=1", ["hubert_layer=2", "has 1"]),
        ("vocoder", "model.generator.channels=32", ["'channels': 16", "'channels': 32"]),
        ("vocoder", "model.discriminator.max_channels=4", ["discriminator", "'max_channels': 4"]),
    ],
)
def test_another_layer_or_size_is_an_error_that_names_both(
    encoder_folder: Path, tmp_path: Path, stage: str, override: str, sides: list[str]
) -> None:
    (publish_adapter if stage == "adapter" else publish_vocoder)(encoder_folder, tmp_path / "weights")
    start = start_adapter if stage == "adapter" else start_vocoder
    with pytest.raises(ValueError, match=f"init_from.{stage}={tmp_path / 'weights'}") as caught:
        start(encoder_folder, f"init_from.{stage}={tmp_path / 'weights'}", override)
    assert [side for side in sides if side not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


def test_another_sample_rate_is_an_error_that_names_both(encoder_folder: Path, tmp_path: Path) -> None:
    rate = ("model.sample_rate_hz=24000", "model.generator.upsample_factors=[8,5,4,3]")
    publish_vocoder(encoder_folder, tmp_path / "vocoder", *rate)
    with pytest.raises(ValueError, match=r"sample_rate_hz=24000; this stage has 16000"):
        start_vocoder(encoder_folder, f"init_from.vocoder={tmp_path / 'vocoder'}")


def test_another_encoder_is_told_by_its_digest_and_the_same_one_by_no_name(
    encoder_folder: Path, tmp_path: Path
) -> None:
    publish_adapter(encoder_folder, tmp_path / "adapter")
    init = f"init_from.adapter={tmp_path / 'adapter'}"
    moved = shutil.copytree(encoder_folder, tmp_path / "moved")
    start_adapter(moved, init)
    description = tmp_path / "adapter/checkpoint_4.json"
    description.write_text(json.dumps({"step": 4, "upstream_digests": {"encoder": "0" * 64}}))
    with pytest.raises(ValueError, match=rf"sha256 {'0' * 64}\); this stage has .*sha256 [0-9a-f]{{64}}"):
        start_adapter(encoder_folder, init)
    description.unlink()  # then the name decides
    start_adapter(encoder_folder, init)
    with pytest.raises(ValueError, match="hubert_model_name="):
        start_adapter(moved, init)


def test_the_encoder_in_a_bundle_fits_although_it_is_rounded(encoder_folder: Path, tmp_path: Path) -> None:
    first = publish_adapter(encoder_folder, tmp_path / "adapter")
    publish_vocoder(encoder_folder, tmp_path / "vocoder")
    weights, bundle = load_published(tmp_path / "adapter", tmp_path / "vocoder", ROOT), tmp_path / "bundle"
    save_bundle(weights, bundle, precision="bf16", encoder_from=str(encoder_folder))
    init = f"init_from.adapter={bundle}"
    second = start_adapter(bundle / "encoder", init)
    assert second.encoder.digest != first.encoder.digest
    elsewhere = shutil.copytree(bundle / "encoder", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="was trained on the encoder"):
        start_adapter(elsewhere, init)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("final.safetensors", b"x" * 64, "final.safetensors is damaged"),
        ("final.safetensors", None, "final.safetensors is missing; train the earlier stage first"),
        ("config.yaml", b"{", "config.yaml is damaged"),
        ("config.yaml", b"steps: 3", "has no section 'model'"),
        ("checkpoint_4.json", b"[]", "checkpoint_4.json holds no mapping"),
    ],
)
def test_a_bad_file_is_named(
    encoder_folder: Path, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    folder = tmp_path / "adapter"
    publish_adapter(encoder_folder, folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        start_adapter(encoder_folder, f"init_from.adapter={folder}")
    assert str(caught.value).startswith(f"init_from.adapter={folder}: ")
    assert "\n" not in str(caught.value)


def test_weights_of_the_other_stage_are_refused(encoder_folder: Path, tmp_path: Path) -> None:
    publish_vocoder(encoder_folder, tmp_path / "vocoder", "model.adapter_hidden_dim=4")
    with pytest.raises(ValueError, match=r"has no tensors under 'adapters\.'; is it of the right stage"):
        start_adapter(encoder_folder, f"init_from.adapter={tmp_path / 'vocoder'}")


def test_dvc_watches_the_files_that_a_stage_starts_from(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("resume_routing", "paths"):
        monkeypatch.setattr(f"miipher2.config.{module}.ROOT", tmp_path)
    params = compose_config("pipeline")

    def watched(stage: str, **init_from: str | None) -> dict[str, str]:
        for key, value in init_from.items():
            OmegaConf.update(params, f"{stage}.init_from.{key}", value)
        return dict(init_files(stage, _root_=params))

    vocoder_script = "stages/finetune_vocoder.py"
    assert watched("train_adapter", adapter=None) == {"adapter": "stages/train_adapter.py"}
    assert watched("finetune_vocoder") == {
        "adapter": "exp/adapter_embedded/published/final.safetensors",
        "vocoder": "exp/harmonic_pretrain_embedded/published/final.safetensors",
        "discriminators": "exp/harmonic_pretrain_embedded/published/discriminators.safetensors",
    }
    (tmp_path / "bundle").mkdir()
    for file in ("bundle.json", "weights.safetensors"):
        (tmp_path / "bundle" / file).touch()
    found = watched("finetune_vocoder", adapter="owner/name@v1", vocoder="bundle")
    weights = "bundle/weights.safetensors"
    assert found == {"adapter": vocoder_script, "vocoder": weights, "discriminators": vocoder_script}
    (tmp_path / "bundle/discriminators.safetensors").touch()
    assert watched("finetune_vocoder")["discriminators"] == "bundle/discriminators.safetensors"
    assert watched("finetune_vocoder", vocoder=None, discriminators=None)["discriminators"] == vocoder_script
