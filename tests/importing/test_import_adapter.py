"""Checkpoints of the original Miipher-2 code: the same features, in folders that everything else reads."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_recipes
import torch
from other_projects import DIM, ENCODERS, HIDDEN, LAYERS, Original, relative_difference, save_encoder
from tiny_checkpoints import Command
from tiny_weights import publish, statistics, wave

from miipher2.inference.bundle import save_bundle
from miipher2.inference.restorer import Restorer
from miipher2.models.vocoder.registry import build_generator

GENERATOR: dict[str, Any] = {
    "kind": "vocos",
    "channels": 8,
    "hidden_channels": 8,
    "blocks": 1,
    "window_frames": 4,
}


@pytest.fixture
def imported(miipher2: Command, tmp_path: Path) -> Path:
    """Return what a checkpoint is imported to, with a vocoder of ours beside it."""
    save_encoder(tmp_path / "source", "hubert")
    torch.save(Original(tmp_path / "source").content, tmp_path / "checkpoint_199k.pt")
    result = miipher2("import", tmp_path / "out", "--adapter", tmp_path / "checkpoint_199k.pt")
    assert result.code == 0, result.error
    return tmp_path / "out"


def add_vocoder(folder: Path) -> None:
    """Publish a vocoder for the encoder of an imported adapter."""
    model = {
        "hubert_model_name": str(folder / "encoder"),
        "hubert_revision": None,
        "hubert_layer": LAYERS,
        "sample_rate_hz": 16_000,
        "generator": GENERATOR,
    }
    generator = build_generator(dim=DIM, sample_rate_hz=16_000, **GENERATOR).exported_state_dict()
    tensors = {f"generator.{name}": value for name, value in generator.items()} | statistics(0.1, DIM)
    publish(folder / "vocoder", model, tensors)


@pytest.mark.parametrize("form", ["checkpoint", "older names", "bare state", "safetensors-like half"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_features_are_those_of_the_source(tmp_path: Path, miipher2: Command, encoder: str, form: str) -> None:
    save_encoder(tmp_path / "source", encoder)
    original = Original(tmp_path / "source", older=form == "older names")
    if form == "safetensors-like half":  # a file in float16 holds other weights than the source had in memory
        original.state = {name: tensor.half() for name, tensor in original.state.items()}
        original.hubert.half().float()
        original.adapters = {name: original.state[name].float() for name in original.adapters}
    content = original.state if form in ("bare state", "safetensors-like half") else original.content
    torch.save(content, tmp_path / "file.pt")
    words = ["import", tmp_path / "out", "--adapter", tmp_path / "file.pt", "--encoder", tmp_path / "source"]
    result = miipher2(*words)
    assert result.code == 0, result.error
    add_vocoder(tmp_path / "out")
    restorer = Restorer.from_published(tmp_path / "out/adapter", tmp_path / "out/vocoder")
    for samples in (320 * 50, 320 * 7):
        sound = wave(samples)
        expected = original.features(torch.from_numpy(sound)[None])[0]
        assert relative_difference(restorer.features(sound), expected) < 1e-5
    plain = restorer.features(wave(16_000), adapted=False)
    assert relative_difference(plain, original.features(torch.from_numpy(wave(16_000))[None])[0]) > 0.1


def test_imported_json_names_source_licence_and_what_is_not_exact(imported: Path, tmp_path: Path) -> None:
    described = json.loads((imported / "imported.json").read_text())
    assert len({path.stat().st_mode for path in imported.rglob("*") if path.is_file()}) == 1  # readable by all alike
    assert described["encoder"]["layer"] == LAYERS
    record = described["adapter"]
    assert json.loads((imported / "adapter/imported.json").read_text()) == record
    assert (record["file"], record["step"]) == ("checkpoint_199k.pt", 199_000)
    assert len(record["sha256"]) == 64
    assert "40 samples" in record["not_exact"][0]
    assert "hubert_layer 6; its 2 adapters decide" in record["not_exact"][1]
    assert sorted(record["left_out"]["entries of the checkpoint beside the model"]) == [
        *("optimizer_state_dict", "random_states", "scheduler_state_dict", "wandb_run_id")
    ]
    above = record["left_out"]["layers above the adapters"]
    assert all(name.startswith("extractor.model.encoder.layers.2.") for name in above)
    assert len(above) == 16


def test_restoring_exporting_and_fine_tuning_go_on_from_it(imported: Path, tmp_path: Path) -> None:
    add_vocoder(imported)
    restorer = Restorer.from_published(imported / "adapter", imported / "vocoder")
    restored = restorer(wave(8_000), 16_000)
    assert restored.shape == (8_000,)
    assert restorer.weights.lineage["adapter"]["imported"]["step"] == 199_000
    save_bundle(restorer.weights, tmp_path / "bundle", precision="fp32", encoder_from=str(imported / "encoder"))
    assert torch.equal(
        torch.from_numpy(Restorer.from_bundle(tmp_path / "bundle")(wave(8_000), 16_000)), torch.from_numpy(restored)
    )
    recipe = tiny_recipes.vocoder(
        imported / "encoder",
        "encoder_input=degraded",
        f"model.adapter_hidden_dim={HIDDEN}",
        f"init_from.adapter={imported}/adapter",
    )
    adapters = restorer.encoder.adapter_state_dict()
    assert all(torch.equal(tensor, adapters[name]) for name, tensor in recipe.encoder.adapter_state_dict().items())
    recipe.update(tiny_recipes.batch(), 0)


def test_a_non_commercial_encoder_is_said_and_written(
    tmp_path: Path, miipher2: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_encoder(tmp_path / "mHuBERT-147", "hubert")
    torch.save(Original(tmp_path / "mHuBERT-147").content, tmp_path / "file.pt")
    result = miipher2("import", tmp_path / "out", "--adapter", tmp_path / "file.pt")
    assert "NO COMMERCIAL USE: holds mHuBERT-147, which is cc-by-nc-sa-4.0" in result.out
    assert json.loads((tmp_path / "out/adapter/imported.json").read_text())["is_non_commercial"] is True


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an encoder's folder; not to be written to."""
    folder = tmp_path_factory.mktemp("source")
    save_encoder(folder, "hubert")
    return folder


def without(name: str) -> Any:
    return lambda original: original.state.pop(name)


REFUSED: dict[str, tuple[Any, str]] = {
    "serial wiring": (
        lambda original: original.content["optimizer_state_dict"]["param_groups"][0].update(params=list(range(12))),
        "12 tensors for 2 adapters: they come after the layers, as before 2025-06-19",
    ),
    "another optimizer": (
        lambda original: original.content["optimizer_state_dict"]["param_groups"][0].update(params=[0]),
        "has 1 tensors for 2 adapters; should have 16",
    ),
    "no groups": (lambda original: original.content.update(optimizer_state_dict={}), "without param_groups"),
    "a missing tensor": (without("adapters.1.ff.3.bias"), r"has no adapters\.1\.ff\.3\.bias"),
    "no encoder": (
        lambda original: [original.state.pop(name) for name in list(original.state) if "extractor" in name],
        "should hold the encoder beside the adapters",
    ),
    "a missing weight of the encoder": (
        without("extractor.model.encoder.layers.0.final_layer_norm.weight"),
        r"has no extractor\.model\.encoder\.layers\.0\.final_layer_norm\.weight",
    ),
    "an unknown tensor": (
        lambda original: original.state.update({"prenet.weight": torch.ones(2)}),
        r"prenet\.weight in model_state_dict is not known",
    ),
    "another shape": (
        lambda original: original.state.update({"adapters.1.ff.1.weight": torch.ones(3, DIM)}),
        r"adapters\.1\.ff\.1\.weight is \(3, 32\); should be \(6, 32\)",
    ),
    "not finite": (
        lambda original: original.state["adapters.0.ff.1.bias"].fill_(torch.nan),
        r"adapters\.0\.ff\.1\.bias holds values that are not finite",
    ),
    "whole numbers": (
        lambda original: original.state.update({"adapters.0.ff.1.bias": torch.ones(HIDDEN, dtype=torch.int64)}),
        "should be floating-point numbers",
    ),
    "no tensor": (
        lambda original: original.state.update({"adapters.0.ff.1.bias": [1.0]}),
        r"adapters\.0\.ff\.1\.bias is a list of 1 entries; should be a tensor",
    ),
    "no adapters": (
        lambda original: [original.state.pop(name) for name in list(original.state) if "adapters" in name],
        r"should hold adapters, named adapters\.0\.",
    ),
    "too many adapters": (
        lambda original: (
            original.content.pop("optimizer_state_dict"),
            original.state.update(
                {
                    name.replace("adapters.0", f"adapters.{number}"): tensor
                    for name, tensor in original.adapters.items()
                    if "adapters.0" in name
                    for number in (2, 3)
                }
            ),
        ),
        "has 3 layers; layer 4 should be from 1 to that",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    tmp_path: Path, source: Path, miipher2: Command, name: str
) -> None:
    original = Original(source)
    change, match = REFUSED[name]
    change(original)
    torch.save(original.content, tmp_path / "file.pt")
    result = miipher2("import", tmp_path / "out", "--adapter", tmp_path / "file.pt")
    assert (result.code, result.out, result.error.count("\n")) == (2, "", 1)
    assert re.search(match, result.error)
    assert [path.name for path in tmp_path.iterdir()] == ["file.pt"]


def test_the_encoder_is_named_where_it_is_missing_or_does_not_fit(
    tmp_path: Path, source: Path, miipher2: Command
) -> None:
    original = Original(source)
    torch.save(original.state, tmp_path / "bare.pt")
    words = ["import", tmp_path / "out", "--adapter", tmp_path / "bare.pt"]
    assert "does not name its encoder; add --encoder" in miipher2(*words).error
    assert "--encoder /nowhere: no config.json there" in miipher2(*words, "--encoder", "/nowhere").error
    assert (
        "model_type 'wav2vec2-bert'; should be one of hubert"
        in miipher2(*words, "--encoder", "models/mini/restorer/encoder").error
    )
    assert not (tmp_path / "out").exists()
