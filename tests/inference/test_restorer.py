"""Restoring: from published files to a wave of the right length, and what is said where something does not fit."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_weights import ADAPTER_DIM, DIM, ENCODERS, LAYER, UPSAMPLE, load, publish_all, wave

from miipher2.inference.restorer import Restorer
from miipher2.models.encoder.feature_norm import FeatureNormaliser
from miipher2.models.encoder.from_pretrained import load_encoder
from miipher2.models.vocoder.registry import build_generator


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished repository, not to be changed."""
    folder = tmp_path_factory.mktemp("repository")
    publish_all(folder, "hubert")
    return folder


@pytest.fixture(scope="module")
def restorer(root: Path) -> Restorer:
    return load(root)


@pytest.fixture
def own_root(tmp_path: Path) -> Path:
    """A finished repository to damage."""
    publish_all(tmp_path, "hubert")
    return tmp_path


def edit_config(folder: Path, **changes: object) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"] |= changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("kind", "rate_hz", "generator"),
    [*((kind, 24_000, "hifigan") for kind in ENCODERS), *(("hubert", rate_hz, "vocos") for rate_hz in UPSAMPLE)]
    + [("hubert", rate_hz, "hifigan") for rate_hz in UPSAMPLE if rate_hz != 24_000]
    + [("hubert", rate_hz, "harmonic_vocos") for rate_hz in UPSAMPLE if rate_hz != 22_050],
)
def test_the_output_lasts_as_long_as_the_input(tmp_path, kind, rate_hz, generator):
    publish_all(tmp_path, kind, rate_hz, generator=generator)
    restorer = load(tmp_path)
    assert restorer.sample_rate_hz == rate_hz
    for from_hz, samples in [
        (16_000, 1),
        (16_000, 320),
        (16_000, 321),
        (8_000, 4_001),
        (44_100, 22_051),
        (48_000, 959),
    ]:
        restored = restorer(wave(samples), from_hz)
        assert restored.shape == (round(samples * rate_hz / from_hz),), (from_hz, samples)
        assert restored.dtype == np.float32
        assert np.isfinite(restored).all()


def test_restoring_is_encoder_adapters_statistics_and_generator_in_that_order(root, restorer):
    encoder = load_encoder(root / "models" / "hubert", LAYER)
    encoder.add_adapters(ADAPTER_DIM)
    published = load_file(root / "adapter" / "final.safetensors")
    encoder.load_adapter_state_dict(
        {name.removeprefix("adapters."): value for name, value in published.items() if name.startswith("adapters.")}
    )
    weights = load_file(root / "vocoder" / "final.safetensors")
    numbers = yaml.safe_load((root / "vocoder" / "config.yaml").read_text())["model"]["generator"]
    generator = build_generator(dim=DIM, sample_rate_hz=16_000, **numbers)
    generator.load_exported_state_dict(
        {name.removeprefix("generator."): value for name, value in weights.items() if name.startswith("generator.")}
    )
    heard = wave(3_200)
    with torch.inference_mode():
        features = encoder(torch.from_numpy(heard)[None], adapted=True)
        # Continued at both ends by its mirror image, as far as the generator sees.
        halo = generator.context_frames
        continued = np.pad(heard, 320 * halo, mode="symmetric")
        by_hand = generator((encoder(torch.from_numpy(continued)[None], adapted=True) - 0.1) / 2.0)[0].numpy()
        by_hand = by_hand[320 * halo : -320 * halo]
    # Weight norm folded and not folded round differently.
    np.testing.assert_allclose(restorer(heard, 16_000), by_hand, atol=1e-5)
    np.testing.assert_array_equal(restorer.features(heard), features[0].numpy())
    np.testing.assert_allclose(restorer.normalised_features(heard), (features[0].numpy() - 0.5) / 2.0, atol=1e-6)
    assert by_hand.std() > 1e-3


def test_the_adapters_are_heard_only_where_asked(root, restorer):
    heard = wave(3_200)
    with torch.inference_mode():
        frozen = load_encoder(root / "models" / "hubert", LAYER)(torch.from_numpy(heard)[None])[0].numpy()
    np.testing.assert_array_equal(restorer.features(heard, adapted=False), frozen)
    assert np.abs(restorer.features(heard, adapted=True) - frozen).max() > 0.1


def test_another_sample_rate_is_resampled_before_the_encoder(restorer):
    slow = np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000).astype(np.float32)
    fast = np.sin(2 * np.pi * 200 * np.arange(48_000) / 48_000).astype(np.float32)
    at_16k, at_48k = restorer(slow, 16_000), restorer(fast, 48_000)
    assert at_48k.shape == at_16k.shape
    # The same tone, but for the resampling filter's ends.
    inner = slice(3_200, -3_200)
    assert np.abs(at_16k[inner] - at_48k[inner]).mean() < 0.05 * np.abs(at_16k[inner]).mean()


def test_restoring_twice_gives_the_same_bits_and_draws_no_chance(restorer):
    before = torch.get_rng_state()
    first, second = restorer(wave(5_000), 16_000), restorer(wave(5_000), 16_000)
    np.testing.assert_array_equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_folders_are_those_of_the_working_directory_unless_said(root, restorer, monkeypatch):
    monkeypatch.chdir(root)
    again = Restorer.from_published("adapter", "vocoder")
    assert again.weights.digest() == restorer.weights.digest()


def test_loading_leaves_the_global_generator_alone(root):
    before = torch.get_rng_state()
    load(root)
    assert torch.equal(before, torch.get_rng_state())


def test_the_input_is_left_as_it_was(restorer):
    given = wave(5_000)
    copy = given.copy()
    given.setflags(write=False)
    restorer(given, 16_000)
    np.testing.assert_array_equal(given, copy)


def test_channels_are_restored_each_on_its_own(restorer):
    stereo = np.stack([wave(4_000, "left"), wave(4_000, "right")])
    restored = restorer(stereo, 16_000)
    assert restored.shape == (2, 4_000)
    for channel in range(2):
        np.testing.assert_array_equal(restored[channel], restorer(stereo[channel], 16_000))


@pytest.mark.parametrize("kind", ENCODERS)
def test_silence_stays_silence_and_near_silence_stays_finite(tmp_path, kind):
    publish_all(tmp_path, kind)
    restorer = load(tmp_path)
    np.testing.assert_array_equal(restorer(np.zeros(8_000, np.float32), 16_000), np.zeros(8_000, np.float32))
    silent = restorer.features(np.zeros(8_000, np.float32))
    assert np.isfinite(silent).all()
    click = np.zeros(8_000, np.float32)
    click[4_000] = 1e-7
    assert np.isfinite(restorer(click, 16_000)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_named_by_its_position(restorer, value):
    broken = wave(1_000)
    broken[123] = value
    with pytest.raises(ValueError, match=rf"holds {value} at value 123; should be finite"):
        restorer(broken, 16_000)
    with pytest.raises(ValueError, match=rf"holds {value} at value 123 of channel 1; should be finite"):
        restorer(np.stack([wave(1_000), broken]), 16_000)


def test_waves_that_are_none_are_errors(restorer):
    with pytest.raises(ValueError, match=r"the wave has the shape \(0,\); should be \[time\] or \[channel time\]"):
        restorer(np.zeros(0, np.float32), 16_000)
    with pytest.raises(ValueError, match=r"the wave has the shape \(1, 2, 100\)"):
        restorer(np.zeros((1, 2, 100), np.float32), 16_000)
    with pytest.raises(ValueError, match="the wave's values are int16; should be floating-point"):
        restorer(np.ones(100, np.int16), 16_000)


@pytest.mark.parametrize("missing", ["adapter/config.yaml", "vocoder/final.safetensors"])
def test_a_missing_file_is_named_with_what_to_do(own_root, missing):
    (own_root / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{missing}: missing; .*uv run dvc repro"):
        load(own_root)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("hubert_layer", 3, "2 in .* and 3 in"),
        ("hubert_model_name", "other/model", "'models/hubert' in .*'other/model'"),
    ],
)
def test_adapter_and_vocoder_of_different_encoders_are_an_error_with_both_values(own_root, key, value, found):
    edit_config(own_root / "vocoder", **{key: value})
    with pytest.raises(ValueError, match=rf"model\.{key} is {found}"):
        load(own_root)


def test_folders_given_the_wrong_way_round_are_an_error(own_root):
    with pytest.raises(ValueError, match=r"adapter/config.yaml: has no model.sample_rate_hz; .*right stage"):
        Restorer.from_published("vocoder", "adapter", root=own_root)


def test_weights_that_do_not_fit_their_configuration_are_an_error_naming_the_file(own_root):
    edit_config(own_root / "vocoder", sample_rate_hz=24_000)
    with pytest.raises(ValueError, match=r"vocoder/final.safetensors: does not fit .*multiply to 320"):
        load(own_root)
    publish_all(own_root, "hubert")
    edit_config(own_root / "adapter", adapter_hidden_dim=ADAPTER_DIM + 1)
    with pytest.raises(ValueError, match=r"adapter/final.safetensors: does not fit .*models/hubert.*size mismatch"):
        load(own_root)


def test_damaged_files_are_errors_naming_the_file(own_root):
    weights, config = own_root / "vocoder" / "final.safetensors", own_root / "adapter" / "config.yaml"
    tensors = load_file(weights)
    tensors["generator.last.bias"][0] = torch.nan
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"vocoder/final.safetensors: 'generator.last.bias' holds values that are not"):
        load(own_root)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"vocoder/final.safetensors: damaged"):
        load(own_root)
    config.write_text("model: [")
    with pytest.raises(ValueError, match=r"adapter/config.yaml: is not YAML"):
        load(own_root)
    config.write_text("name: run\n")
    with pytest.raises(ValueError, match=r"adapter/config.yaml: has no section 'model'"):
        load(own_root)


def test_statistics_are_the_publisher_s_own(own_root):
    weights = own_root / "vocoder" / "final.safetensors"
    restorer = load(own_root)
    assert isinstance(restorer.normaliser, FeatureNormaliser)
    assert restorer.normaliser.mean[0].item() == pytest.approx(0.5)
    assert restorer.vocoder.normaliser.mean[0].item() == pytest.approx(0.1)
    save_file({name: value for name, value in load_file(weights).items() if "std" not in name}, weights)
    with pytest.raises(ValueError, match=r"vocoder/final.safetensors: does not fit an encoder of 16 dimensions.*std"):
        load(own_root)
