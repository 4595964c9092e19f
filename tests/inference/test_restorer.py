"""Restoring from published files: the length and content of the output, and errors that name what does not fit."""

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
    """Return a finished repository, which tests should not change."""
    folder = tmp_path_factory.mktemp("repository")
    publish_all(folder, "hubert")
    return folder


@pytest.fixture(scope="module")
def restorer(root: Path) -> Restorer:
    return load(root, level="model")


@pytest.fixture
def damaged_root(tmp_path: Path) -> Path:
    """Return a finished repository that a test may damage."""
    publish_all(tmp_path, "hubert")
    return tmp_path


def edit_config(folder: Path, **changes: object) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"] |= changes
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(
    ("encoder", "rate_hz", "generator"),
    [*((encoder, 24_000, "hifigan") for encoder in ENCODERS), *(("hubert", rate_hz, "vocos") for rate_hz in UPSAMPLE)]
    + [("hubert", rate_hz, "hifigan") for rate_hz in UPSAMPLE if rate_hz != 24_000]
    + [("hubert", rate_hz, "harmonic_vocos") for rate_hz in UPSAMPLE if rate_hz != 22_050],
)
def test_output_is_as_long_as_the_input(tmp_path, encoder, rate_hz, generator):
    publish_all(tmp_path, encoder, rate_hz, generator=generator)
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


def test_restoration_is_encoder_adapters_statistics_and_generator_in_that_order(root, restorer):
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
    values = wave(3_200)
    with torch.inference_mode():
        features = encoder(torch.from_numpy(values)[None], adapted=True)
        # Continued at both ends by its mirror image, as far as the generator's context.
        context = generator.context_frames
        continued = np.pad(values, 320 * context, mode="symmetric")
        expected = generator((encoder(torch.from_numpy(continued)[None], adapted=True) - 0.1) / 2.0)[0].numpy()
        expected = expected[320 * context : -320 * context]
    # With and without weight norm, weights round differently.
    np.testing.assert_allclose(restorer(values, 16_000), expected, atol=1e-5)
    np.testing.assert_array_equal(restorer.features(values), features[0].numpy())
    np.testing.assert_allclose(restorer.normalised_features(values), (features[0].numpy() - 0.5) / 2.0, atol=1e-6)
    assert expected.std() > 1e-3


def test_adapters_are_active_only_when_requested(root, restorer):
    values = wave(3_200)
    with torch.inference_mode():
        frozen = load_encoder(root / "models" / "hubert", LAYER)(torch.from_numpy(values)[None])[0].numpy()
    np.testing.assert_array_equal(restorer.features(values, adapted=False), frozen)
    assert np.abs(restorer.features(values, adapted=True) - frozen).max() > 0.1


@pytest.mark.parametrize("encoder", ENCODERS)
def test_strength_scales_what_the_adapters_add(tmp_path, encoder):
    publish_all(tmp_path, encoder)
    values = wave(3_200)
    restored = {strength: load(tmp_path, strength=strength)(values, 16_000) for strength in (0, 0.25, 0.5, 1.0)}
    np.testing.assert_array_equal(restored[1.0], load(tmp_path)(values, 16_000))
    assert len({wave.tobytes() for wave in restored.values()}) == 4
    half = load(tmp_path, strength=0.5).features(values)
    path = tmp_path / "adapter/final.safetensors"
    weights = load_file(path)
    for factor, expected in ((0.5, restored[0.5]), (0.0, restored[0])):  # of what an adapter's last layer gives
        save_file({name: factor * value if ".up." in name else value for name, value in weights.items()}, path)
        scaled = load(tmp_path)
        np.testing.assert_array_equal(scaled(values, 16_000), expected)  # 0.5 and 0 are exact in floating point
        if factor == 0.5:
            np.testing.assert_array_equal(scaled.features(values), half)
    without = load_encoder(tmp_path / "models" / encoder, LAYER)(torch.from_numpy(values)[None])[0].numpy()
    np.testing.assert_array_equal(load(tmp_path, strength=0).features(values), without)


def test_input_is_resampled_before_the_encoder(restorer):
    slow = np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000).astype(np.float32)
    fast = np.sin(2 * np.pi * 200 * np.arange(48_000) / 48_000).astype(np.float32)
    at_16k, at_48k = restorer(slow, 16_000), restorer(fast, 48_000)
    assert at_48k.shape == at_16k.shape
    # The same tone, except where the resampling filter reaches past the ends.
    inner = slice(3_200, -3_200)
    assert np.abs(at_16k[inner] - at_48k[inner]).mean() < 0.05 * np.abs(at_16k[inner]).mean()


def test_restoring_twice_gives_the_same_bits_and_leaves_the_global_generator_alone(restorer):
    before = torch.get_rng_state()
    first, second = restorer(wave(5_000), 16_000), restorer(wave(5_000), 16_000)
    np.testing.assert_array_equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_relative_folders_start_at_the_working_directory_by_default(root, restorer, monkeypatch):
    monkeypatch.chdir(root)
    again = Restorer.from_published("adapter", "vocoder")
    assert again.weights.digest() == restorer.weights.digest()


def test_loading_leaves_the_global_generator_alone(root):
    before = torch.get_rng_state()
    load(root)
    assert torch.equal(before, torch.get_rng_state())


def test_input_is_not_changed(restorer):
    values = wave(5_000)
    copy = values.copy()
    values.setflags(write=False)
    restorer(values, 16_000)
    np.testing.assert_array_equal(values, copy)


def test_channels_are_restored_each_on_its_own(restorer):
    stereo = np.stack([wave(4_000, "left"), wave(4_000, "right")])
    restored = restorer(stereo, 16_000)
    assert restored.shape == (2, 4_000)
    for channel in range(2):
        np.testing.assert_array_equal(restored[channel], restorer(stereo[channel], 16_000))


@pytest.mark.parametrize("encoder", ENCODERS)
def test_silence_stays_silent_and_near_silence_finite(tmp_path, encoder):
    publish_all(tmp_path, encoder)
    restorer = load(tmp_path)
    np.testing.assert_array_equal(restorer(np.zeros(8_000, np.float32), 16_000), np.zeros(8_000, np.float32))
    silent = restorer.features(np.zeros(8_000, np.float32))
    assert np.isfinite(silent).all()
    click = np.zeros(8_000, np.float32)
    click[4_000] = 1e-7
    assert np.isfinite(restorer(click, 16_000)).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_error_names_the_position_of_a_value_that_is_not_finite(restorer, value):
    broken = wave(1_000)
    broken[123] = value
    with pytest.raises(ValueError, match=rf"holds {value} at value 123; should be finite"):
        restorer(broken, 16_000)
    with pytest.raises(ValueError, match=rf"holds {value} at value 123 of channel 1; should be finite"):
        restorer(np.stack([wave(1_000), broken]), 16_000)


def test_waves_of_a_wrong_shape_or_type_are_errors(restorer):
    with pytest.raises(ValueError, match=r"the wave has the shape \(0,\); should be \[time\] or \[channel time\]"):
        restorer(np.zeros(0, np.float32), 16_000)
    with pytest.raises(ValueError, match=r"the wave has the shape \(1, 2, 100\)"):
        restorer(np.zeros((1, 2, 100), np.float32), 16_000)
    with pytest.raises(ValueError, match="the wave's values are int16; should be floating-point"):
        restorer(np.ones(100, np.int16), 16_000)


@pytest.mark.parametrize("missing", ["adapter/config.yaml", "vocoder/final.safetensors"])
def test_error_names_a_missing_file_and_the_remedy(damaged_root, missing):
    (damaged_root / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{missing}: missing; .*uv run dvc repro"):
        load(damaged_root)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hubert_layer", 3, "2 in .* and 3 in"),
        ("hubert_model_name", "other/model", "'models/hubert' in .*'other/model'"),
    ],
)
def test_error_names_both_values_where_adapter_and_vocoder_have_different_encoders(damaged_root, key, value, message):
    edit_config(damaged_root / "vocoder", **{key: value})
    with pytest.raises(ValueError, match=rf"model\.{key} is {message}"):
        load(damaged_root)


def test_swapped_folders_are_an_error(damaged_root):
    with pytest.raises(ValueError, match=r"adapter/config.yaml: has no model.sample_rate_hz; .*right stage"):
        Restorer.from_published("vocoder", "adapter", root=damaged_root)


def test_error_names_the_file_whose_weights_do_not_fit_their_configuration(damaged_root):
    edit_config(damaged_root / "vocoder", sample_rate_hz=24_000)
    with pytest.raises(ValueError, match=r"vocoder/final.safetensors: does not fit .*multiply to 320"):
        load(damaged_root)
    publish_all(damaged_root, "hubert")
    edit_config(damaged_root / "adapter", adapter_hidden_dim=ADAPTER_DIM + 1)
    with pytest.raises(ValueError, match=r"adapter/final.safetensors: does not fit .*models/hubert.*size mismatch"):
        load(damaged_root)


def test_error_names_a_damaged_file(damaged_root):
    weights, config = damaged_root / "vocoder" / "final.safetensors", damaged_root / "adapter" / "config.yaml"
    tensors = load_file(weights)
    tensors["generator.last.bias"][0] = torch.nan
    save_file(tensors, weights)
    with pytest.raises(ValueError, match=r"vocoder/final.safetensors: 'generator.last.bias' holds values that are not"):
        load(damaged_root)
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"vocoder/final.safetensors: damaged"):
        load(damaged_root)
    config.write_text("model: [")
    with pytest.raises(ValueError, match=r"adapter/config.yaml: is not YAML"):
        load(damaged_root)
    config.write_text("name: run\n")
    with pytest.raises(ValueError, match=r"adapter/config.yaml: has no section 'model'"):
        load(damaged_root)


def test_adapter_and_vocoder_keep_their_own_statistics(damaged_root):
    weights = damaged_root / "vocoder" / "final.safetensors"
    restorer = load(damaged_root)
    assert isinstance(restorer.normaliser, FeatureNormaliser)
    assert restorer.normaliser.mean[0].item() == pytest.approx(0.5)
    assert restorer.vocoder.normaliser.mean[0].item() == pytest.approx(0.1)
    save_file({name: value for name, value in load_file(weights).items() if "std" not in name}, weights)
    with pytest.raises(ValueError, match=r"vocoder/final.safetensors: does not fit an encoder of 16 dimensions.*std"):
        load(damaged_root)
