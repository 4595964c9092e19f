"""Vocoders of other projects: the same wave from the same features, discriminators with the same scores."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_recipes
import torch
import yaml
from other_projects import DIM, LAYERS, Original, relative_difference, save_encoder
from other_vocoders import PERIODS, CharactrVocos, SslVocoder
from safetensors.torch import load_file
from tiny_checkpoints import Command
from tiny_weights import wave

from miipher2.inference.bundle import save_bundle
from miipher2.inference.restorer import Restorer
from miipher2.models.vocoder.discriminators import Discriminators
from miipher2.models.vocoder.registry import load_exported_generator

FRAMES = 40
ALL_SIZES: dict[str, dict[str, Any]] = {
    "22.05 kHz": {},
    "16 kHz": {"rate_hz": 16_000, "rates": (8, 5, 4, 2)},
    "24 kHz, one kernel": {"rate_hz": 24_000, "rates": (8, 5, 4, 3), "kernels": (7,), "dilations": (1, 3, 5)},
    "48 kHz": {"rate_hz": 48_000, "rates": (10, 8, 6, 2), "channels": 32},
    "new names": {"norm": "new", "spectral_names": "new"},
    "folded": {"norm": "folded", "has_discriminators": False},
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an encoder's folder; not to be written to."""
    folder = tmp_path_factory.mktemp("encoder")
    save_encoder(folder, "hubert")
    return folder


def published(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the `model` section and the weights of a published folder."""
    return yaml.safe_load((folder / "config.yaml").read_text())["model"], load_file(folder / "final.safetensors")


def generator_of(folder: Path) -> Any:
    """Return the generator of a published folder, for normalised features."""
    model, weights = published(folder)
    state = {name[10:]: tensor for name, tensor in weights.items() if name.startswith("generator.")}
    return load_exported_generator(state, dim=DIM, sample_rate_hz=model["sample_rate_hz"], **model["generator"])


def features() -> torch.Tensor:
    return torch.randn(FRAMES, DIM, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("sizes", ALL_SIZES)
def test_hifigan_makes_the_wave_of_the_source(tmp_path: Path, encoder: Path, miipher2: Command, sizes: str) -> None:
    source = SslVocoder(**ALL_SIZES[sizes])
    path = source.save(tmp_path / "epoch=77.ckpt")
    result = miipher2("import", tmp_path / "out", "--vocoder", path, "--encoder", encoder)
    assert result.code == 0, result.error
    generator = generator_of(tmp_path / "out/vocoder")
    with torch.no_grad():
        found = generator(features()[None])[0]
    assert relative_difference(found, source(features())) < 1e-5
    record = json.loads((tmp_path / "out/imported.json").read_text())["vocoder"]
    assert (record["step"], record["not_exact"]) == (137_108, [])
    assert list(record["left_out"]) == [
        "what only the source's training loss needs",
        "entries of the checkpoint beside the model",
    ]


@pytest.mark.parametrize("names", ["old", "new"])
def test_discriminators_give_the_scores_and_maps_of_the_source(
    tmp_path: Path, encoder: Path, miipher2: Command, names: str
) -> None:
    source = SslVocoder(norm=names, spectral_names=names)
    assert (
        miipher2("import", tmp_path / "out", "--vocoder", source.save(tmp_path / "x"), "--encoder", encoder).code == 0
    )
    model, _ = published(tmp_path / "out/vocoder")
    ours = Discriminators(**model["discriminator"])
    ours.load_state_dict(load_file(tmp_path / "out/vocoder/discriminators.safetensors"))
    sound = torch.from_numpy(wave(8_000))[None]
    with torch.no_grad():
        pairs = list(zip(ours.eval()(sound), source.judge(sound), strict=True))
    assert len(pairs) == len(PERIODS) + 3
    for (score, maps), (expected, expected_maps) in pairs:
        assert relative_difference(score, expected) < 1e-5
        for found, other in zip(maps, expected_maps, strict=True):
            assert relative_difference(found, other) < 1e-5


def test_full_size_discriminators_have_the_shapes_of_the_source() -> None:
    with torch.device("meta"):
        ours: Any = Discriminators(PERIODS, 3, (), 32, 1024)
    periods = [tuple(layer.weight.shape) for layer in ours.parts[0].stacks[0].layers]
    assert periods == [(32, 1, 5, 1), (128, 32, 5, 1), (512, 128, 5, 1), (1024, 512, 5, 1), (1024, 1024, 5, 1)]
    scales = [(tuple(layer.weight.shape), layer.groups) for layer in ours.parts[1].stacks[1].layers]
    assert scales == [
        *[((128, 1, 15), 1), ((128, 32, 41), 4), ((256, 8, 41), 16), ((512, 16, 41), 16)],
        *[((1024, 32, 41), 16), ((1024, 64, 41), 16), ((1024, 1024, 5), 1)],
    ]


@pytest.mark.parametrize("padding", ["same", "center"])
@pytest.mark.parametrize("is_training", [False, True])
def test_vocos_makes_the_wave_of_the_source(
    tmp_path: Path, encoder: Path, miipher2: Command, padding: str, is_training: bool
) -> None:
    source = CharactrVocos(padding=padding)
    path = source.save(tmp_path, is_training=is_training)
    words = ["import", tmp_path / "out", "--vocoder", path, "--encoder", encoder, "--layer", 2]
    result = miipher2(*words)
    assert result.code == 0, result.error
    with torch.no_grad():
        found, expected = generator_of(tmp_path / "out/vocoder")(features()[None])[0], source(features())
    if padding == "center":  # a frame is half a hop later here; those at the ends overlap with fewer
        assert "half a frame (10 ms) later" in result.out
        edge = 3 * source.hop
        found = found[source.hop // 2 :][edge : len(expected) - edge]
        expected = expected[edge:-edge]
    assert relative_difference(found, expected) < 1e-5
    assert ("multiperioddisc" in (tmp_path / "out/imported.json").read_text()) is is_training
    assert not (tmp_path / "out/vocoder/discriminators.safetensors").exists()


def test_adapter_and_vocoder_restore_as_the_sources_chain(tmp_path: Path, encoder: Path, miipher2: Command) -> None:
    original, vocoder = Original(encoder), SslVocoder()
    torch.save(original.content, tmp_path / "adapter.pt")
    words = ["--adapter", tmp_path / "adapter.pt", "--vocoder", vocoder.save(tmp_path / "vocoder.ckpt")]
    result = miipher2("import", tmp_path / "out", *words)
    assert result.code == 0, result.error
    folders = tmp_path / "out/adapter", tmp_path / "out/vocoder"
    restorer = Restorer.from_published(*folders)
    sound = wave(320 * 60)
    expected = vocoder(original.features(torch.from_numpy(sound)[None])[0])
    assert relative_difference(restorer.vocode(restorer.features(sound)), expected) < 1e-5
    restored = restorer(sound, 16_000)
    assert restored.shape == (round(320 * 60 * 22_050 / 16_000),)
    save_bundle(restorer.weights, tmp_path / "bundle", precision="fp32", encoder_from=str(tmp_path / "out/encoder"))
    lineage = Restorer.from_bundle(tmp_path / "bundle").weights.lineage
    assert {part: lineage[part]["imported"]["file"] for part in ("adapter", "vocoder")} == {
        "adapter": "adapter.pt",
        "vocoder": "vocoder.ckpt",
    }


def test_stages_2_and_3_go_on_from_it_with_its_discriminators(tmp_path: Path, encoder: Path, miipher2: Command) -> None:
    source = SslVocoder(rate_hz=16_000, rates=(8, 5, 4, 2))
    path = source.save(tmp_path / "vocoder.ckpt")
    assert miipher2("import", tmp_path / "out", "--vocoder", path, "--encoder", encoder).code == 0
    model, weights = published(tmp_path / "out/vocoder")
    overrides = [
        f"model.{part}.{key}={json.dumps(value).replace(' ', '')}"
        for part in ("generator", "discriminator")
        for key, value in model[part].items()
    ]
    more = [f"model.sample_rate_hz={model['sample_rate_hz']}", "optim.lr=1e-4", "loss.adversarial_from_step=0"]
    recipe = tiny_recipes.vocoder(
        tmp_path / "out/encoder", f"init_from.vocoder={tmp_path}/out/vocoder", *overrides, *more
    )
    with torch.no_grad():
        found = recipe.generator(features()[None])[0]
        judged = recipe.discriminators.eval()(torch.from_numpy(wave(8_000))[None])[0][0]
    assert relative_difference(found, source(features())) < 1e-5
    assert relative_difference(judged, source.judge(torch.from_numpy(wave(8_000))[None])[0][0]) < 1e-5
    recipe.initialise([tiny_recipes.batch()])  # the statistics are the source's, which has none
    assert torch.equal(recipe.normaliser.std, torch.ones(DIM))
    recipe.discriminators.train()
    metrics = recipe.update(tiny_recipes.batch(), 0)
    assert "discriminator/loss" in metrics
    exported = recipe.export()["final"]
    assert {name: tensor.shape for name, tensor in exported.items()} == {
        name: tensor.shape for name, tensor in weights.items()
    }


def changed(key: str, value: Any) -> Any:
    """Return a change of a configuration at a dotted key."""

    def change(source: SslVocoder) -> None:
        section = source.config
        *path, last = key.split(".")
        for part in path:
            section = section[part]
        section[last] = value

    return change


REFUSED: dict[str, tuple[Any, str]] = {
    "mel's frame rate": (
        lambda source: (
            changed("model.generator.upsample_rates", [8, 8, 2, 2])(source),
            changed("model.generator.upsample_kernel_sizes", [16, 16, 4, 4])(source),
        ),
        r"makes 256 samples of a frame at 22050 Hz, which is 86\.13 frames a second; should be 50",
    ),
    "residual blocks of type 2": (changed("model.generator.resblock", "2"), "resblock is '2'; should be 1"),
    "kernels of other lengths": (
        changed("model.generator.upsample_kernel_sizes", [14, 14, 6, 6]),
        r"upsample_kernel_sizes is \[14, 14, 6, 6\]; should be \[15, 15, 7, 7\]",
    ),
    "unequal dilations": (
        changed("model.generator.resblock_dilation_sizes", [[1, 3], [1, 5]]),
        "should be equal for each kernel",
    ),
    "dilations of nothing": (changed("model.generator.resblock_dilation_sizes", None), "is missing; should be"),
    "no sample rate": (changed("sample_rate", None), "sample_rate is missing; should be a whole number above 0"),
    "a huge size": (changed("model.generator.upsample_initial_channel", 2**30), r"conv_pre\.weight_. is|generator: "),
    "a huge kernel": (changed("model.generator.resblock_kernel_sizes", [2**31 - 1, 3]), "should be|overflow"),
    "a million sizes": (changed("model.generator.upsample_rates", [1] * 1_000), "should be up to 16 whole numbers"),
    "features of another rate": (changed("data.target_feature.samples_per_sec", 100), "samples_per_sec is 100"),
    "another input": (
        changed("model.generator.num_input_channels", 80),
        r"generator\.conv_pre\.weight_v is \(16, 32, 7\); should be \(16, 80, 7\)",
    ),
    "a missing key": (
        lambda source: source.state.pop("generator.ups.1.bias"),
        r"state_dict has no generator\.ups\.1\.bias",
    ),
    "an unknown key": (
        lambda source: source.state.update({"generator.cond.weight": torch.ones(1)}),
        r"generator\.cond\.weight in state_dict is not known",
    ),
    "four periods": (
        lambda source: [
            source.state.pop(name)
            for name in list(source.state)
            if name.startswith("multi_period_discriminator.discriminators.4.")
        ],
        "has 4 discriminators of periods and 3 of scales; should have 5",
    ),
    "no configuration": (lambda source: setattr(source, "config", None), "has no hyper_parameters.cfg"),
    "no layer": (
        lambda source: (source.config.pop("preprocess"), changed("data.target_feature", {"bias": 0.0025})(source)),
        "names none as its encoder's layer; add --layer N",
    ),
    "two layers": (
        changed("data.target_feature.layer", 12),
        r"names 12 \(data\.target_feature\.layer\) and 2 \(data\.target_feature\.key\) and 2 \(preprocess",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_one_line_and_nothing_is_written(
    tmp_path: Path, encoder: Path, miipher2: Command, name: str
) -> None:
    source = SslVocoder(has_discriminators=name == "four periods")
    change, match = REFUSED[name]
    change(source)
    path = source.save(tmp_path / "file.ckpt")
    result = miipher2("import", tmp_path / "out", "--vocoder", path, "--encoder", encoder)
    assert (result.code, result.out, result.error.count("\n")) == (2, "", 1)
    assert re.search(match, result.error), result.error
    assert [path.name for path in tmp_path.iterdir()] == ["file.ckpt"]


KNOWN: dict[str, tuple[Any, str]] = {
    "jik876's generator": ({"generator": {"conv_pre.weight_g": torch.ones(1)}}, "86.13 frames a second"),
    "jik876's discriminators": ({"mpd": {}, "msd": {}, "steps": 1}, "discriminators of a mel vocoder alone"),
    "the original's older form": (
        {"generator_modules": {"prenet": {}, "generator": {}}},
        "from before July 2025, which makes 86 frames of mel a second",
    ),
    "something else": ({"weight": torch.ones(1)}, "of no known vocoder; docs/import.md lists those that are"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_files_that_cannot_be_imported_are_refused_with_the_reason(
    tmp_path: Path, miipher2: Command, name: str
) -> None:
    content, match = KNOWN[name]
    torch.save(content, tmp_path / "file.pt")
    result = miipher2("import", tmp_path / "out", "--vocoder", tmp_path / "file.pt", "--encoder", "x")
    assert (result.code, match in result.error) == (2, True), result.error


VOCOS_REFUSED: dict[str, tuple[Any, str]] = {
    "mel": ({"rate_hz": 24_000, "hop": 256}, "93.75 frames a second; should be 50"),
    "encodec": ({"rate_hz": 24_000, "hop": 320}, "75.00 frames a second; should be 50"),
}


@pytest.mark.parametrize("name", VOCOS_REFUSED)
def test_vocos_of_other_frame_rates_are_refused(tmp_path: Path, encoder: Path, miipher2: Command, name: str) -> None:
    settings, match = VOCOS_REFUSED[name]
    path = CharactrVocos(**settings).save(tmp_path)
    result = miipher2("import", tmp_path / "out", "--vocoder", path, "--encoder", encoder, "--layer", 2)
    assert (result.code, match in result.error) == (2, True), result.error


def test_other_forms_of_vocos_are_refused(tmp_path: Path, encoder: Path, miipher2: Command) -> None:
    def refusal(change: Any) -> str:
        source = CharactrVocos()
        change(source)
        path = source.save(tmp_path)
        result = miipher2("import", tmp_path / "out", "--vocoder", path, "--encoder", encoder, "--layer", 2)
        assert result.code == 2
        return result.error

    assert "AdaLayerNorm" in refusal(lambda s: s.state.update({"backbone.norm.scale.weight": torch.ones(4, 12)}))
    assert "should be Hann's" in refusal(lambda s: s.state.update({"head.istft.window": torch.ones(1920)}))
    assert "a multiple of the hop" in refusal(lambda s: s.state.update({"head.out.weight": torch.ones(1002, 12)}))
    assert "padding is 'odd'" in refusal(lambda s: s.config["head"]["init_args"].update(padding="odd"))
    assert "is not known" in refusal(lambda s: s.state.update({"backbone.pos_net.0.weight": torch.ones(1)}))
    assert "takes the output of feature_extractor.mel_spec" in refusal(
        lambda s: s.state.update({"feature_extractor.mel_spec.spectrogram.window": torch.ones(8)})
    )
    path = CharactrVocos().save(tmp_path)
    (tmp_path / "config.yaml").unlink()
    result = miipher2("import", tmp_path / "out", "--vocoder", path, "--encoder", encoder, "--layer", 2)
    assert "config.yaml: missing; should be beside vocos.bin" in result.error


def test_parts_that_do_not_fit_together_are_named(tmp_path: Path, encoder: Path, miipher2: Command) -> None:
    torch.save(Original(encoder).content, tmp_path / "adapter.pt")
    source = SslVocoder(has_discriminators=False)
    source.config["data"]["target_feature"] |= {"layer": 1, "key": "hubert-base-1.pth"}
    path = source.save(tmp_path / "vocoder.ckpt")
    words = ["import", tmp_path / "out", "--adapter", tmp_path / "adapter.pt", "--vocoder", path]
    assert re.search("is for layer 2, .* for 1 .*--layer 2 imports them all the same", miipher2(*words).error)
    assert "has 2 adapters; should be that" in miipher2(*words, "--layer", 1).error
    result = miipher2(*words, "--layer", LAYERS)
    assert (result.code, "names layer 1 (data.target_feature.layer)" in result.out) == (0, True), result.error
    wide = SslVocoder(dim=16, has_discriminators=False)
    only = ["import", tmp_path / "other", "--vocoder", wide.save(tmp_path / "wide.ckpt"), "--encoder"]
    assert re.search(r"takes 16 values a frame; the encoder \(.*\) gives 32", miipher2(*only, encoder).error)
    assert "layer 9 should be from 1 to that" in miipher2(*only, encoder, "--layer", 9).error
    assert "--encoder /nowhere: no config.json there" in miipher2(*only, "/nowhere").error
    assert not (tmp_path / "other").exists()


def test_features_after_the_last_layer_norm_are_refused(tmp_path: Path, miipher2: Command) -> None:
    save_encoder(tmp_path / "encoder", "hubert_stable")
    path = SslVocoder(has_discriminators=False).save(tmp_path / "x.ckpt")
    words = ["import", tmp_path / "out", "--vocoder", path, "--encoder", tmp_path / "encoder", "--layer"]
    assert "layer 3 is its last, whose features some versions of transformers" in miipher2(*words, 3).error
    assert miipher2(*words, 2).code == 0


def test_another_alignment_is_said(tmp_path: Path, encoder: Path, miipher2: Command) -> None:
    source = SslVocoder(has_discriminators=False)
    source.config["data"]["target_feature"]["bias"] = 0.0
    result = miipher2("import", tmp_path / "out", "--vocoder", source.save(tmp_path / "x.ckpt"), "--encoder", encoder)
    assert "the output is 2.5 ms late, since the source was trained with a bias of 0 s" in result.out
