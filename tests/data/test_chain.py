"""Degradations are drawn as plain values, applied without randomness, and never change the clean speech."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_configs import degradation_config
from omegaconf.errors import OmegaConfBaseException
from synthetic_voices import synthetic_voice

from miipher2.atomic_io import sha256_of
from miipher2.audio.codecs import BIT_RATE_CODECS
from miipher2.audio.decode import AudioError
from miipher2.audio.io import write_audio
from miipher2.audio.levels import active_samples
from miipher2.audio.resample import resample
from miipher2.config.schema_data import CODECS
from miipher2.data.degradations.additive import Noise
from miipher2.data.degradations.chain import Degradation, apply, check_pools, draw
from miipher2.data.degradations.channel import Clipping, Codec
from miipher2.data.degradations.filters import BandLimit, Room
from miipher2.data.manifest import Manifest, Utterance
from miipher2.data.pools import Pools
from miipher2.rng import stream

VALUES: dict[str, dict[str, Any]] = {
    "room": {"probability": 0.5},
    "noise": {"probability": 0.9, "snr_db": [5, 30]},
    "band_limit": {"probability": 0.3, "cutoff_hz": [2000, 7000]},
    "clipping": {"probability": 0.2, "threshold": [0.1, 0.5]},
    "codec": {"probability": 0.3, "kinds": list(CODECS), "bit_rate_kbps": [16, 64]},
}
CONFIG = degradation_config(VALUES)
ALWAYS = degradation_config({name: {**values, "probability": 1} for name, values in VALUES.items()})


@pytest.fixture
def pools(root: Path) -> Pools:
    prepared = root / "data/prepared"
    return Pools(Manifest.read(prepared / "noise.parquet"), Manifest.read(prepared / "rooms.parquet"), root)


def test_a_degradation_is_a_function_of_its_stream_and_survives_json(pools: Pools) -> None:
    for step in range(50):
        drawn = [draw(stream(1, "example", step, 0), CONFIG, pools, 8000) for _ in range(2)]
        assert drawn[0] == drawn[1]
        assert Degradation.from_dict(json.loads(json.dumps(drawn[0].as_dict()))) == drawn[0]
    assert draw(stream(1, "a"), ALWAYS, pools, 8000) != draw(stream(2, "a"), ALWAYS, pools, 8000)


def test_each_transform_happens_with_its_probability(pools: Pools) -> None:
    drawn = [draw(stream(1, "often", step), CONFIG, pools, 8000).as_dict() for step in range(1500)]
    for name, values in VALUES.items():
        share = np.mean([name in each for each in drawn])
        assert abs(share - values["probability"]) < 0.05, name  # four standard deviations
    assert {each["codec"]["codec"] for each in drawn if "codec" in each} == set(CODECS)
    assert all(5 <= each["noise"]["snr_db"] <= 30 for each in drawn if "noise" in each)


def test_a_changed_probability_changes_no_other_transform(pools: Pools) -> None:
    less = degradation_config({**VALUES, "noise": {**VALUES["noise"], "probability": 0.0}})
    for step in range(30):
        before, after = (draw(stream(1, step), config, pools, 8000).as_dict() for config in (CONFIG, less))
        before.pop("noise", None)
        assert after == before


def test_degraded_is_a_new_finite_array_in_range_and_clean_is_unchanged(pools: Pools) -> None:
    for step in range(60):
        clean = synthetic_voice(0.5, seed=step)
        before = clean.copy()
        clean.flags.writeable = False
        degraded = apply(clean, draw(stream(1, step), ALWAYS if step % 2 else CONFIG, pools, len(clean)), pools)
        np.testing.assert_array_equal(clean, before)
        assert not np.shares_memory(clean, degraded)
        assert degraded.shape == clean.shape
        assert degraded.dtype == np.float32
        assert np.isfinite(degraded).all()
        assert np.abs(degraded).max() <= 1.0
    assert not np.shares_memory(clean, apply(clean, Degradation(()), pools))


def test_applying_twice_gives_the_same_bits(pools: Pools) -> None:
    clean = synthetic_voice(0.5)
    for step in range(30):
        degradation = draw(stream(1, step), ALWAYS, pools, len(clean))
        np.testing.assert_array_equal(apply(clean, degradation, pools), apply(clean, degradation, pools))


def test_silence_stays_silent(pools: Pools) -> None:
    for step in range(20):
        degradation = draw(stream(1, step), ALWAYS, pools, 4000)
        assert not apply(np.zeros(4000, np.float32), degradation, pools).any()
        assert apply(np.zeros(0, np.float32), degradation, pools).shape == (0,)


def test_almost_silent_waves_and_single_impulses_stay_finite(pools: Pools) -> None:
    impulse = np.zeros(4000, np.float32)
    impulse[2000] = 1.0
    for clean in (np.full(4000, 1e-30, np.float32), np.full(4000, 1e-45, np.float32), impulse, impulse[1999:2001]):
        for step in range(8):
            degradation = draw(stream(1, step), ALWAYS, pools, len(clean))
            assert np.isfinite(apply(clean, degradation, pools)).all()


@pytest.mark.parametrize("snr_db", [-5.0, 5.0, 17.5, 30.0])
def test_noise_has_the_snr_drawn_over_the_active_speech(pools: Pools, snr_db: float) -> None:
    for index in range(len(pools.noises)):
        clean = (0.2 * synthetic_voice(2.0, seed=index)).astype(np.float32)
        clean[:8000] = 0.0
        degraded = Noise(index, 0.3 * index, snr_db).apply(clean, pools)
        is_speech = active_samples(clean)
        assert not is_speech[:8000].any()
        noise = (degraded - clean)[is_speech]
        ratio = 10 * np.log10(np.mean(clean[is_speech].astype(float) ** 2) / np.mean(noise.astype(float) ** 2))
        assert abs(ratio - snr_db) < 0.1, pools.noises.row(index).path


def test_room_keeps_the_position_and_the_level_of_speech(pools: Pools) -> None:
    impulse = np.zeros(8000, np.float32)
    impulse[1000] = 0.5
    for index in range(len(pools.rooms)):
        wet = Room(index).apply(impulse, pools)
        response = pools.read_response(index)
        np.testing.assert_allclose(wet[:1000], 0, atol=1e-5)
        # A whole response, scaled to the level of what came in.
        np.testing.assert_allclose(wet[1000:] / wet[1000], np.pad(response, (0, 7000))[:7000], atol=1e-4)
        assert np.sum(wet**2) == pytest.approx(0.25, rel=1e-3)


def test_band_limit_removes_frequencies_above_it_and_keeps_those_below(pools: Pools) -> None:
    wave = stream(0, "white").uniform(-0.5, 0.5, 16000).astype(np.float32)
    limited = BandLimit(3000.0).apply(wave, pools)
    before, after = (np.abs(np.fft.rfft(each)) ** 2 for each in (wave, limited))
    assert after[3400:].sum() < 1e-3 * before[3400:].sum()
    assert after[:2900].sum() == pytest.approx(before[:2900].sum(), rel=0.01)


def test_clipping_is_relative_to_the_peak(pools: Pools) -> None:
    wave = synthetic_voice(0.5)
    clipped = Clipping(0.25).apply(wave, pools)
    assert np.abs(clipped).max() == pytest.approx(0.25 * np.abs(wave).max())
    np.testing.assert_array_equal(clipped[np.abs(wave) < 0.09], wave[np.abs(wave) < 0.09])


def test_codec_transform_is_aligned(pools: Pools) -> None:
    wave = synthetic_voice(0.5)
    for codec in CODECS:
        coded = Codec(codec, 32.0 if codec in BIT_RATE_CODECS else None).apply(wave, pools)
        shifts = {shift: float(np.dot(wave, np.roll(coded, -shift))) for shift in range(-1500, 1501)}
        assert abs(int(max(shifts, key=lambda shift: shifts[shift]))) <= 1, codec


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rooom": {"probability": 1}}, "Key 'rooom' not in 'DegradationConfig'"),
        ({"noise": {"probability": 1, "snr": [5, 30]}}, "Key 'snr' not in 'NoiseConfig'"),
        ({"noise": {"probability": 1.5}}, r"degradation\.noise\.probability=1\.5: should be from 0 to 1"),
        ({"noise": {"snr_db": [30, 5]}}, r"degradation\.noise\.snr_db=\[30\.0, 5\.0\]: should be \[low, high\]"),
        ({"band_limit": {"cutoff_hz": [2000, 9000]}}, r"degradation\.band_limit\.cutoff_hz"),
        ({"clipping": {"threshold": 0.5}}, "threshold"),
        ({"codec": {"kinds": ["mp3", "amr"]}}, r"degradation\.codec\.kinds=\['mp3', 'amr'\]: should list some of mp3"),
        ({"codec": {"kinds": []}}, r"degradation\.codec\.kinds=\[\]: should list some of"),
        ({"order": "any"}, "degradation.order=any: should be one of chain, random"),
    ],
)
def test_wrong_configuration_is_an_error_that_names_the_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, OmegaConfBaseException), match=message):
        degradation_config(values)


def test_an_empty_pool_is_an_error_only_where_it_is_read(root: Path) -> None:
    empty = Pools(Manifest.from_utterances([]), Manifest.from_utterances([]), root)
    for name in ("room", "noise", "babble"):
        with pytest.raises(ValueError, match=f"degradation.{name}: the pool of .* is empty"):
            check_pools(degradation_config({name: {"probability": 1.0}}), empty)
    check_pools(degradation_config({"codec": {"probability": 1.0}}), empty)
    draw(stream(0, "x"), degradation_config({}), empty, 8000)


def test_noise_of_any_length_and_rate_is_as_long_as_the_speech(tmp_path: Path) -> None:
    wave = synthetic_voice(0.11, 44100)
    write_audio(tmp_path / "short.wav", wave, 44100, "FLOAT")
    digest = sha256_of(tmp_path / "short.wav")
    row = Utterance("short.wav", "wind", "none", len(wave) / 44100, 44100, digest, "train")
    pools = Pools(Manifest.from_utterances([row]), Manifest.from_utterances([]), tmp_path)
    for start in (0.0, 0.05, 0.1099):
        assert pools.read_noise(0, start, 16000).shape == (16000,)
    tone = resample(wave, 44100, 16000)
    np.testing.assert_allclose(pools.read_noise(0, 0.0, 1000)[:900], tone[:900], atol=1e-3)


def test_changed_pool_files_are_an_error(root: Path, tmp_path: Path) -> None:
    prepared = root / "data/prepared"
    for name in ("noise", "rooms"):
        manifest = Manifest.read(prepared / f"{name}.parquet")
        for index in range(len(manifest)):
            target = tmp_path / manifest.row(index).path
            target.parent.mkdir(parents=True, exist_ok=True)
            write_audio(target, synthetic_voice(0.3), 16000)
    pools = Pools(Manifest.read(prepared / "noise.parquet"), Manifest.read(prepared / "rooms.parquet"), tmp_path)
    with pytest.raises(AudioError, match=r"\.flac: is not the noise of the manifest"):
        pools.read_noise(0, 0.0, 100)
    with pytest.raises(AudioError, match=r"\.wav: is not the response of the manifest"):
        pools.read_response(0)
