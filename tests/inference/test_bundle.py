"""Exported bundles: the same restoration from one folder, small and without the repository."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from tiny_weights import ENCODERS, load, publish_all, save_hubert, wave

from miipher2.inference.bundle import save_bundle
from miipher2.inference.restorer import Restorer


@pytest.mark.parametrize(
    ("encoder", "generator"),
    [
        *((encoder, "hifigan") for encoder in ENCODERS),
        ("mini", "vocos"),
        ("mini", "harmonic_vocos"),
        ("mini", "dac"),
        ("mini", "conformer_hifigan"),
    ],
)
def test_bundle_restores_like_the_published_weights(tmp_path: Path, encoder: str, generator: str) -> None:
    publish_all(tmp_path / "repository", encoder, 24_000, generator=generator)
    restorer = load(tmp_path / "repository")
    save_bundle(
        restorer.weights,
        tmp_path / "bundle",
        precision="fp32",
        encoder_from=str(tmp_path / f"repository/models/{encoder}"),
    )
    expected, digest = restorer(wave(5_000), 16_000), restorer.weights.digest()
    shutil.rmtree(tmp_path / "repository")
    bundled = Restorer.from_bundle(tmp_path / "bundle")
    np.testing.assert_array_equal(bundled(wave(5_000), 16_000), expected)
    assert bundled.weights.digest() == digest
    assert bundled.weights.lineage == restorer.weights.lineage
    files = [path for path in (tmp_path / "bundle").rglob("*") if path.is_file()]
    assert len({path.stat().st_mode for path in files}) == 1  # all may read the weights who may read the description


def test_bfloat16_bundle_is_half_the_size_and_restores_nearly_the_same(tmp_path: Path) -> None:
    publish_all(tmp_path, "hubert", absolute=True)
    restorer = load(tmp_path)
    for precision in ("fp32", "bf16"):
        save_bundle(restorer.weights, tmp_path / precision, precision=precision, encoder_from=None)
    with safe_open(tmp_path / "bf16/weights.safetensors", "pt") as file:
        sizes = {name: file.get_tensor(name).dtype.itemsize for name in file.keys()}  # noqa: SIM118
    assert {name for name, size in sizes.items() if size == 4} == {name for name in sizes if "normaliser" in name}
    exact, rounded = restorer(wave(5_000), 16_000), Restorer.from_bundle(tmp_path / "bf16")(wave(5_000), 16_000)
    assert np.corrcoef(exact, rounded)[0, 1] > 0.95
    assert not np.array_equal(exact, rounded)


@pytest.mark.parametrize("encoder_from", ["models/mini", None])
def test_bundle_of_several_layers_finds_its_encoder_under_the_root(tmp_path: Path, encoder_from: str | None) -> None:
    publish_all(tmp_path, "mini", layer=[1, 2])
    restorer = load(tmp_path)
    encoder = encoder_from and str(tmp_path / encoder_from)
    save_bundle(restorer.weights, tmp_path / "bundle", precision="fp32", encoder_from=encoder)
    bundled = Restorer.from_bundle(tmp_path / "bundle", root=tmp_path, chunk_seconds=0.2)
    features = bundled.normalised_features(wave(9_000), adapted=True)
    assert features.shape[1] == 2 * bundled.encoder.encoder.config.hidden_size
    np.testing.assert_allclose(bundled(wave(9_000), 16_000), restorer(wave(9_000), 16_000), atol=1e-4)


def test_bundle_may_have_the_longest_name_that_the_file_system_allows(tmp_path: Path) -> None:
    publish_all(tmp_path, "hubert", absolute=True)
    save_bundle(load(tmp_path).weights, tmp_path / ("声" * 85), precision="fp32", encoder_from=None)
    assert Restorer.from_bundle(tmp_path / ("声" * 85))


def test_reference_to_a_changed_encoder_is_refused(tmp_path: Path) -> None:
    publish_all(tmp_path, "hubert", absolute=True)
    save_bundle(load(tmp_path).weights, tmp_path / "bundle", precision="fp32", encoder_from=None)
    save_hubert(tmp_path / "models/hubert")  # new random weights
    with pytest.raises(ValueError, match=r"the encoder's sha256 is .* was exported for"):
        Restorer.from_bundle(tmp_path / "bundle")


def test_error_names_what_is_wrong_with_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"bundle.json: missing; should be in .* that `miipher2 export` wrote"):
        Restorer.from_bundle(tmp_path)
    publish_all(tmp_path, "hubert", absolute=True)
    weights = load(tmp_path).weights
    save_bundle(weights, tmp_path / "bundle", precision="fp32", encoder_from=None)
    with pytest.raises(FileExistsError, match="bundle: exists"):
        save_bundle(weights, tmp_path / "bundle", precision="fp32", encoder_from=None)
    config = tmp_path / "bundle/bundle.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"format": 99}))
    with pytest.raises(ValueError, match="has the format 99; should be 1"):
        Restorer.from_bundle(tmp_path / "bundle")
