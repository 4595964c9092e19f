"""The original's released vocoder: conformer layers before HiFi-GAN, run on windows, and its wave."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_recipes
import torch
import yaml
from other_projects import DIM, Original, relative_difference, save_encoder
from other_vocoders import OriginalVocoder
from tiny_checkpoints import Command
from tiny_weights import wave

from miipher2.inference.bundle import save_bundle
from miipher2.inference.licences import licences_of_lineage
from miipher2.inference.restorer import Restorer

RATE_HZ, FRAMES = 22_050, 60


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an encoder's folder; not to be written to."""
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder, "hubert")
    return folder


@pytest.fixture
def source() -> OriginalVocoder:
    return OriginalVocoder()


@pytest.fixture
def imported(source: OriginalVocoder, encoder: Path, miipher2: Command, tmp_path: Path) -> Path:
    """Return what a file is imported to, with the adapters of another."""
    torch.save(Original(encoder).content, tmp_path / "adapter.pt")
    words = ["--adapter", tmp_path / "adapter.pt", "--vocoder", source.save(tmp_path / "epoch=77.ckpt")]
    result = miipher2("import", tmp_path / "out", *words)
    assert result.code == 0, result.error
    return tmp_path / "out"


def features() -> torch.Tensor:
    return torch.randn(FRAMES, DIM, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("heads", [None, 3])
def test_wave_is_that_of_the_source(encoder: Path, miipher2: Command, tmp_path: Path, heads: int | None) -> None:
    source = OriginalVocoder(heads=heads)
    torch.save(Original(encoder).content, tmp_path / "adapter.pt")
    words = ["--adapter", tmp_path / "adapter.pt", "--vocoder", source.save(tmp_path / "x.ckpt")]
    assert miipher2("import", tmp_path / "out", *words).code == 0
    restorer = Restorer.from_published(tmp_path / "out/adapter", tmp_path / "out/vocoder")
    expected = source(features())
    assert relative_difference(restorer.vocode(features().numpy()), expected) < 1e-5
    # Attention and its weights matter: without one frame far away, all others change.
    moved = source(features().index_fill(0, torch.tensor([FRAMES - 1]), 5.0))
    assert relative_difference(moved[: 20 * 441], expected[: 20 * 441]) > 1e-3


def test_a_recording_of_one_window_is_that_of_the_source(
    imported: Path, encoder: Path, source: OriginalVocoder
) -> None:
    """With its mirror image on both sides, as restore continues every recording, and in chunks of half a second."""
    options: dict[str, Any] = {"level": "model", "chunk_seconds": 0.5}
    restorer = Restorer.from_published(imported / "adapter", imported / "vocoder", **options)
    sound, context = wave(320 * 120), restorer.vocoder.generator.context_frames
    continued = np.pad(sound, context * 320, mode="symmetric")
    expected = source(torch.from_numpy(restorer.features(continued)))[context * 441 : (context + 120) * 441]
    assert relative_difference(restorer(sound, 16_000), expected) < 1e-5


def test_record_counts_the_layers_and_names_the_licence(imported: Path, tmp_path: Path) -> None:
    record = json.loads((imported / "vocoder/imported.json").read_text())
    assert "behind 2 conformer layers" in record["kind"]
    assert (record["is_non_commercial"], record["licence"][:12]) == (True, "cc-by-nc-4.0")
    assert "attend to windows" in record["not_exact"][0]
    assert len(record["left_out"]["counters of batch norms"]) == 2
    restorer = Restorer.from_published(imported / "adapter", imported / "vocoder")
    assert ("vocoder", record["licence"], True) in licences_of_lineage(restorer.weights.lineage)
    save_bundle(restorer.weights, tmp_path / "bundle", precision="fp32", encoder_from=str(imported / "encoder"))
    bundled = Restorer.from_bundle(tmp_path / "bundle")
    assert np.array_equal(bundled(wave(9_000), 16_000), restorer(wave(9_000), 16_000))


def test_stages_2_and_3_train_on_from_it(imported: Path, source: OriginalVocoder) -> None:
    model = yaml.safe_load((imported / "vocoder/config.yaml").read_text())["model"]
    words = [
        f"model.{part}.{key}={json.dumps(value).replace(' ', '')}"
        for part in ("generator", "discriminator")
        for key, value in model[part].items()
    ]
    recipe = tiny_recipes.vocoder(
        imported / "encoder",
        *("generator@model.generator=conformer_hifigan_22k", "model.sample_rate_hz=22050", *words),
        *(f"init_from.vocoder={imported}/vocoder", "loss.adversarial_from_step=0"),
    )
    with torch.no_grad():
        assert relative_difference(recipe.generator(features()[None])[0], source(features())) < 1e-5
    before = tiny_recipes.copied(recipe.generator.state_dict())
    batch = tiny_recipes.batch()
    batch["target"] = 0.1 * torch.randn(2, 20 * 441)
    recipe.update(batch, 0)
    assert tiny_recipes.changed(before, recipe.generator.state_dict()) == before.keys()


REFUSED: dict[str, tuple[Any, str]] = {
    "a missing weight": (
        lambda source: source.state.pop("generator.conformer2.conformer_layers.0.self_attn.in_proj_bias"),
        r"has no generator\.conformer2\.conformer_layers\.0\.self_attn\.in_proj_bias",
    ),
    "no layers": (
        lambda source: [source.state.pop(name) for name in list(source.state) if ".conformer" in name],
        r"no generator\.conformer1\.conformer_layers\.0",
    ),
    "an unknown weight": (
        lambda source: source.state.update({"generator.conformer1.conformer_layers.0.gate": torch.ones(1)}),
        r"conformer_layers\.0\.gate in state_dict is not known",
    ),
    "a group norm": (
        lambda source: [source.state.pop(name) for name in list(source.state) if "running_" in name],
        r"has no generator\.conformer1\.conformer_layers\.0\.conv_module\.sequential\.3\.running_mean",
    ),
    "a variance below 0": (
        lambda source: source.state[
            "generator.conformer1.conformer_layers.0.conv_module.sequential.3.running_var"
        ].neg_(),
        "running_var holds values below 0",
    ),
    "heads that do not divide": (
        lambda source: source.config["model"]["generator"].update(conformer_num_heads=7),
        "should be a multiple of the 7 heads",
    ),
    "half a head": (
        lambda source: source.config["model"]["generator"].update(conformer_num_heads=0.5),
        r"conformer_num_heads is 0\.5; should be a whole number",
    ),
    "another width": (
        lambda source: source.state.update({"generator.output_projection.weight": torch.ones(8, 24)}),
        r"output_projection\.weight is \(8, 24\); should be \(16, 24\)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    tmp_path: Path, encoder: Path, source: OriginalVocoder, miipher2: Command, name: str
) -> None:
    change, match = REFUSED[name]
    change(source)
    path = source.save(tmp_path / "file.ckpt")
    result = miipher2("import", tmp_path / "out", "--vocoder", path, "--encoder", encoder)
    assert (result.code, result.out, result.error.count("\n")) == (2, "", 1)
    assert re.search(match, result.error), result.error
    assert [path.name for path in tmp_path.iterdir()] == ["file.ckpt"]
