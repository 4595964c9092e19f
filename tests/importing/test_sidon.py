"""Sidon: the features of its encoder with LoRA, and the wave of its decoder."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_recipes
import torch
import transformers
from other_projects import relative_difference
from other_sidon import DIM, LAYERS, Sidon, save_w2v_bert
from safetensors.torch import save_file
from tiny_checkpoints import Command
from tiny_weights import wave

from miipher2.inference.bundle import save_bundle
from miipher2.inference.restorer import Restorer
from miipher2.models.encoder.from_pretrained import load_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an encoder's folder; not to be written to."""
    folder = tmp_path_factory.mktemp("w2v_bert")
    save_w2v_bert(folder)
    return folder


@pytest.fixture
def source(encoder: Path) -> Sidon:
    """Return a checkpoint."""
    return Sidon(encoder)


@pytest.fixture
def imported(source: Sidon, miipher2: Command, tmp_path: Path) -> Path:
    """Return what it is imported to."""
    path = source.save(tmp_path / "sidon.ckpt")
    result = miipher2("import", tmp_path / "out", "--adapter", path, "--vocoder", path)
    assert result.code == 0, result.error
    return tmp_path / "out"


def test_chain_is_that_of_the_source(source: Sidon, imported: Path) -> None:
    restorer = Restorer.from_published(imported / "adapter", imported / "vocoder")
    sound = wave(320 * 40)
    frames = restorer.encoder.front_end(torch.from_numpy(sound)[None])
    expected = source.features(frames)[0]
    features = restorer.features(sound)
    assert relative_difference(features, expected) < 1e-5
    assert relative_difference(restorer.features(sound, adapted=False), expected) < 1e-5  # no adapter adds anything
    found, wanted = restorer.vocode(features), source.decode(expected)
    assert (len(found), len(wanted)) == (40 * 960, 40 * 960 - 26)
    assert relative_difference(found[: 38 * 960], wanted[: 38 * 960]) < 1e-5
    assert len(restorer(sound, 16_000)) == 40 * 960


def test_front_end_frames_as_the_sources_extractor(imported: Path) -> None:
    front_end = load_encoder(imported / "encoder", LAYERS).front_end
    rng = torch.Generator().manual_seed(0)
    sound = 0.1 * torch.randn(320 * 50, generator=rng).cumsum(0).sin()
    extractor = transformers.SeamlessM4TFeatureExtractor()
    padded = torch.nn.functional.pad(sound, (40, 200)).numpy()
    expected = extractor(padded, sampling_rate=16_000, return_tensors="pt")["input_features"]
    torch.testing.assert_close(front_end(sound[None]), expected, atol=1e-3, rtol=0)
    # A part of a recording, with its context, gives the frames of the whole.
    scales = front_end.statistics()
    scales.add(sound.numpy())
    whole = scales.finish()
    torch.testing.assert_close(
        front_end.frames(sound[None, 320 * 9 : 320 * 21], whole), expected[:, 10:20], atol=1e-3, rtol=0
    )


def test_it_restores_exports_and_trains_on(imported: Path, tmp_path: Path, source: Sidon) -> None:
    restorer = Restorer.from_published(imported / "adapter", imported / "vocoder")
    save_bundle(restorer.weights, tmp_path / "bundle", precision="fp32", encoder_from=str(imported / "encoder"))
    bundled = Restorer.from_bundle(tmp_path / "bundle")
    assert torch.equal(torch.from_numpy(bundled(wave(9_000), 16_000)), torch.from_numpy(restorer(wave(9_000), 16_000)))
    recipe = tiny_recipes.vocoder(
        imported / "encoder",
        *("generator@model.generator=dac_48k", "model.generator.channels=32", "model.sample_rate_hz=48000"),
        *("encoder_input=degraded", "model.adapter_hidden_dim=64", f"init_from.adapter={imported}/adapter"),
    )
    batch = tiny_recipes.batch()
    batch["target"] = batch["target"].repeat_interleave(3, 1)
    recipe.initialise([batch])
    recipe.update(batch, 0)


def test_imported_json_names_what_is_not_exact(imported: Path) -> None:
    described = json.loads((imported / "imported.json").read_text())
    assert "LoRA is merged" in described["adapter"]["not_exact"][0]
    assert described["vocoder"]["not_exact"] == [
        "the source's output is 26 samples shorter, and its last two frames differ"
    ]
    assert "the decoder, which --vocoder imports" in described["adapter"]["left_out"]
    assert described["adapter"]["left_out"]["the teacher, which is the encoder before its training"] == [
        "teacher_ssl_model.masked_spec_embed"
    ]


@pytest.mark.parametrize("prefix", ["", "decoder."])
def test_a_decoder_alone_is_imported_with_the_shifted_encoder(
    source: Sidon, encoder: Path, miipher2: Command, tmp_path: Path, prefix: str
) -> None:
    state = {prefix + name: tensor for name, tensor in source.decoder_state.items()}
    torch.save(state, tmp_path / "decoder_state_dict.pt")
    words = ["import", tmp_path / "out", "--vocoder", tmp_path / "decoder_state_dict.pt", "--encoder", encoder]
    assert "add --layer N" in miipher2(*words).error
    assert miipher2(*words, "--layer", LAYERS).code == 0
    config = json.loads((tmp_path / "out/encoder/config.json").read_text())
    assert config["miipher2_front_end"] == {"mels": 80, "shift_samples": 80}
    assert load_encoder(tmp_path / "out/encoder", LAYERS).front_end.padding == (40, 200)


REFUSED: dict[str, tuple[Any, str]] = {
    "a missing LoRA matrix": (
        lambda source: source.state.pop("student_ssl_model.encoder.layers.1.ffn2.output_dense.lora_B.default.weight"),
        r"has no student_ssl_model\.encoder\.layers\.1\.ffn2\.output_dense\.lora_B",
    ),
    "another rank": (
        lambda source: source.state.update(
            {"student_ssl_model.encoder.layers.0.ffn1.output_dense.lora_B.default.weight": torch.ones(DIM, 3)}
        ),
        r"is \(16, 3\); should be \(16, 4\)",
    ),
    "a missing frequency": (
        lambda source: source.state.pop("decoder.model.2.block.3.block.2.alpha"),
        r"has no decoder\.model\.2\.block\.3\.block\.2\.alpha",
    ),
    "an unknown key": (
        lambda source: source.state.update({"decoder.quantizer.x": torch.ones(1), "vae.x": torch.ones(1)}),
        "is not known",
    ),
    "another sample rate": (
        lambda source: source.config.update(sample_rate=24_000),
        r"makes 960 samples of a frame at 24000 Hz, which is 25\.00 frames a second; should be 50",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    tmp_path: Path, source: Sidon, miipher2: Command, name: str
) -> None:
    change, match = REFUSED[name]
    change(source)
    path = source.save(tmp_path / "file.ckpt")
    result = miipher2("import", tmp_path / "out", "--adapter", path, "--vocoder", path)
    assert (result.code, result.out, result.error.count("\n")) == (2, "", 1)
    assert re.search(match, result.error), result.error
    assert [path.name for path in tmp_path.iterdir()] == ["file.ckpt"]


def test_the_codec_itself_and_lora_alone_are_refused(
    tmp_path: Path, encoder: Path, source: Sidon, miipher2: Command
) -> None:
    codec = Sidon(encoder, factors=(8, 8, 4, 2))
    torch.save(codec.decoder_state, tmp_path / "codec.pt")
    result = miipher2("import", tmp_path / "out", "--vocoder", tmp_path / "codec.pt", "--encoder", encoder)
    assert "makes 512 samples of a frame, which at 50 frames a second is 25600 Hz" in result.error
    save_file({f"base_model.model.{name}": each for name, each in source.lora.items()}, tmp_path / "adapter_model")
    result = miipher2("import", tmp_path / "out", "--adapter", tmp_path / "adapter_model", "--encoder", encoder)
    assert "LoRA alone, without the biases that were trained beside it" in result.error
    path = source.save(tmp_path / "sidon.ckpt")
    result = miipher2("import", tmp_path / "out", "--adapter", path, "--encoder", "models/mini/restorer/encoder")
    assert result.code == 2
    result = miipher2("import", tmp_path / "out", "--adapter", path, "--encoder", "/nowhere")
    assert "--encoder /nowhere: no config.json there" in result.error
