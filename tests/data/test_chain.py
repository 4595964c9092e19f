"""Degradations are drawn as plain values, applied without chance, and never touch the clean speech."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic_voices import voice

from miipher2.atomic_io import sha256_of
from miipher2.audio import codecs
from miipher2.audio.io import AudioError, write_audio
from miipher2.audio.levels import active
from miipher2.audio.resample import resample
from miipher2.data.degradations.additive import Noise
from miipher2.data.degradations.chain import Degradation, apply, draw
from miipher2.data.degradations.channel import Clipping, Codec
from miipher2.data.degradations.filters import BandLimit, Room
from miipher2.data.manifest import Manifest, Utterance
from miipher2.data.pools import Pools
from miipher2.rng import stream

SETTINGS: dict[str, dict[str, Any]] = {
    "room": {"probability": 0.5},
    "noise": {"probability": 0.9, "snr_db": [5, 30]},
    "band_limit": {"probability": 0.3, "cutoff_hz": [2000, 7000]},
    "clipping": {"probability": 0.2, "threshold": [0.1, 0.5]},
    "codec": {"probability": 0.3, "kinds": list(codecs.CODECS), "bit_rate_kbps": [16, 64]},
}
BABBLE = {"probability": 1.0, "snr_db": [5, 30]}
ALWAYS = {name: {**values, "probability": 1} for name, values in SETTINGS.items()}


@pytest.fixture
def pools(root: Path) -> Pools:
    prepared = root / "data/prepared"
    return Pools(Manifest.read(prepared / "noise.parquet"), Manifest.read(prepared / "rooms.parquet"), root)


def test_a_degradation_is_a_function_of_its_stream_and_survives_json(pools: Pools) -> None:
    for step in range(50):
        drawn = [draw(stream(1, "example", step, 0), SETTINGS, pools, 8000) for _ in range(2)]
        assert drawn[0] == drawn[1]
        assert Degradation.from_dict(json.loads(json.dumps(drawn[0].as_dict()))) == drawn[0]
    assert draw(stream(1, "a"), ALWAYS, pools, 8000) != draw(stream(2, "a"), ALWAYS, pools, 8000)


def test_every_kind_happens_as_often_as_asked(pools: Pools) -> None:
    drawn = [draw(stream(1, "often", step), SETTINGS, pools, 8000).as_dict() for step in range(1500)]
    for name, values in SETTINGS.items():
        share = np.mean([name in each for each in drawn])
        assert abs(share - values["probability"]) < 0.05, name  # four standard deviations
    assert {each["codec"]["codec"] for each in drawn if "codec" in each} == set(codecs.CODECS)
    assert all(5 <= each["noise"]["snr_db"] <= 30 for each in drawn if "noise" in each)


def test_a_changed_probability_leaves_the_other_kinds_as_they_were(pools: Pools) -> None:
    less = {**SETTINGS, "noise": {**SETTINGS["noise"], "probability": 0.0}}
    for step in range(30):
        before, after = (draw(stream(1, step), settings, pools, 8000).as_dict() for settings in (SETTINGS, less))
        before.pop("noise", None)
        assert after == before


def test_clean_is_never_altered_and_the_result_is_new_finite_and_in_range(pools: Pools) -> None:
    for step in range(60):
        clean = voice(0.5, seed=step)
        before = clean.copy()
        clean.flags.writeable = False
        degraded = apply(clean, draw(stream(1, step), ALWAYS if step % 2 else SETTINGS, pools, len(clean)), pools)
        np.testing.assert_array_equal(clean, before)
        assert not np.shares_memory(clean, degraded)
        assert degraded.shape == clean.shape
        assert degraded.dtype == np.float32
        assert np.isfinite(degraded).all()
        assert np.abs(degraded).max() <= 1.0
    assert not np.shares_memory(clean, apply(clean, Degradation(()), pools))


def test_applying_twice_gives_the_same_bits(pools: Pools) -> None:
    clean = voice(0.5)
    for step in range(30):
        degradation = draw(stream(1, step), ALWAYS, pools, len(clean))
        np.testing.assert_array_equal(apply(clean, degradation, pools), apply(clean, degradation, pools))


def test_silence_in_silence_out(pools: Pools) -> None:
    for step in range(20):
        degradation = draw(stream(1, step), ALWAYS, pools, 4000)
        assert not apply(np.zeros(4000, np.float32), degradation, pools).any()
        assert apply(np.zeros(0, np.float32), degradation, pools).shape == (0,)


def test_almost_silent_and_single_impulse_input_stays_finite(pools: Pools) -> None:
    impulse = np.zeros(4000, np.float32)
    impulse[2000] = 1.0
    for clean in (np.full(4000, 1e-30, np.float32), np.full(4000, 1e-45, np.float32), impulse, impulse[1999:2001]):
        for step in range(8):
            degradation = draw(stream(1, step), ALWAYS, pools, len(clean))
            assert np.isfinite(apply(clean, degradation, pools)).all()


@pytest.mark.parametrize("snr_db", [-5.0, 5.0, 17.5, 30.0])
def test_snr_over_active_speech_is_as_drawn(pools: Pools, snr_db: float) -> None:
    for index in range(len(pools.noises)):
        clean = (0.2 * voice(2.0, seed=index)).astype(np.float32)
        clean[:8000] = 0.0
        degraded = Noise(index, 0.3 * index, snr_db).apply(clean, pools)
        is_speech = active(clean)
        assert not is_speech[:8000].any()
        noise = (degraded - clean)[is_speech]
        ratio = 10 * np.log10(np.mean(clean[is_speech].astype(float) ** 2) / np.mean(noise.astype(float) ** 2))
        assert abs(ratio - snr_db) < 0.1, pools.noises.row(index).path


def test_room_keeps_the_place_and_the_level_of_speech(pools: Pools) -> None:
    impulse = np.zeros(8000, np.float32)
    impulse[1000] = 0.5
    for index in range(len(pools.rooms)):
        wet = Room(index).apply(impulse, pools)
        response = pools.response(index)
        np.testing.assert_allclose(wet[:1000], 0, atol=1e-5)
        # A whole response, scaled to the level of what came in.
        np.testing.assert_allclose(wet[1000:] / wet[1000], np.pad(response, (0, 7000))[:7000], atol=1e-4)
        assert np.sum(wet**2) == pytest.approx(0.25, rel=1e-3)


def test_band_limit_removes_what_is_above_and_keeps_what_is_below(pools: Pools) -> None:
    wave = stream(0, "white").uniform(-0.5, 0.5, 16000).astype(np.float32)
    limited = BandLimit(3000.0).apply(wave, pools)
    before, after = (np.abs(np.fft.rfft(each)) ** 2 for each in (wave, limited))
    assert after[3400:].sum() < 1e-3 * before[3400:].sum()
    assert after[:2900].sum() == pytest.approx(before[:2900].sum(), rel=0.01)


def test_clipping_is_relative_to_the_peak(pools: Pools) -> None:
    wave = voice(0.5)
    clipped = Clipping(0.25).apply(wave, pools)
    assert np.abs(clipped).max() == pytest.approx(0.25 * np.abs(wave).max())
    np.testing.assert_array_equal(clipped[np.abs(wave) < 0.09], wave[np.abs(wave) < 0.09])


def test_codec_of_the_chain_is_aligned(pools: Pools) -> None:
    wave = voice(0.5)
    for codec in codecs.CODECS:
        coded = Codec(codec, 32.0 if codec in codecs.RATED_CODECS else None).apply(wave, pools)
        shifts = {shift: float(np.dot(wave, np.roll(coded, -shift))) for shift in range(-1500, 1501)}
        assert abs(max(shifts, key=lambda shift: shifts[shift])) <= 1, codec


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rooom": {"probability": 1}}, "'rooom'"),
        ({"noise": {"probability": 1, "snr": [5, 30]}}, r"noise\.snr "),
        ({"noise": {"probability": 1}}, r"noise\.snr_db is missing"),
        ({"noise": {"snr_db": [5, 30]}}, r"noise\.probability is missing"),
        ({"noise": {"probability": 1.5, "snr_db": [5, 30]}}, r"noise\.probability is 1\.5"),
        ({"noise": {"probability": 1, "snr_db": [30, 5]}}, r"noise\.snr_db is \[30, 5\]"),
        ({"band_limit": {"probability": 1, "cutoff_hz": [2000, 9000]}}, r"band_limit\.cutoff_hz"),
        ({"clipping": {"probability": 1, "threshold": 0.5}}, r"clipping\.threshold is 0\.5"),
        ({"codec": {"probability": 1, "kinds": ["mp3", "amr"]}}, "'amr'"),
        ({"codec": {"probability": 1, "kinds": []}}, r"codec\.kinds is empty"),
    ],
)
def test_wrong_settings_are_named(pools: Pools, settings: dict, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        draw(stream(0, "x"), settings, pools, 8000)


def test_empty_pools_are_named(root: Path) -> None:
    nothing = Pools(Manifest.from_utterances([]), Manifest.from_utterances([]), root)
    for name, settings in (("room", ALWAYS["room"]), ("noise", ALWAYS["noise"]), ("babble", BABBLE)):
        with pytest.raises(ValueError, match=f"degradation.{name}: the pool of .* is empty"):
            draw(stream(0, "x"), {name: settings}, nothing, 8000)
        draw(stream(0, "x"), {name: {**settings, "probability": 0.0}}, nothing, 8000)


def test_noise_of_any_length_and_rate_fills_the_speech(tmp_path: Path) -> None:
    wave = voice(0.11, 44100)
    write_audio(tmp_path / "short.wav", wave, 44100, "FLOAT")
    digest = sha256_of(tmp_path / "short.wav")
    row = Utterance("short.wav", "wind", "none", len(wave) / 44100, 44100, digest, "train")
    pools = Pools(Manifest.from_utterances([row]), Manifest.from_utterances([]), tmp_path)
    for start in (0.0, 0.05, 0.1099):
        assert pools.noise(0, start, 16000).shape == (16000,)
    tone = resample(wave, 44100, 16000)
    np.testing.assert_allclose(pools.noise(0, 0.0, 1000)[:900], tone[:900], atol=1e-3)


def test_changed_pool_files_are_named(root: Path, tmp_path: Path) -> None:
    prepared = root / "data/prepared"
    for name in ("noise", "rooms"):
        manifest = Manifest.read(prepared / f"{name}.parquet")
        for index in range(len(manifest)):
            target = tmp_path / manifest.row(index).path
            target.parent.mkdir(parents=True, exist_ok=True)
            write_audio(target, voice(0.3), 16000)
    pools = Pools(Manifest.read(prepared / "noise.parquet"), Manifest.read(prepared / "rooms.parquet"), tmp_path)
    with pytest.raises(AudioError, match=r"\.flac: is not the noise"):
        pools.noise(0, 0.0, 100)
    with pytest.raises(AudioError, match=r"\.wav: is not the response"):
        pools.response(0)
