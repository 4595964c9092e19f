"""Every transform keeps length, position, range, silence and the clean speech, whatever is drawn."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from data_configs import degradation_config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from synthetic_voices import synthetic_voice

from miipher2.audio.codecs import BIT_RATE_CODECS
from miipher2.audio.levels import active_samples
from miipher2.audio.resample import resample
from miipher2.config.paths import ROOT
from miipher2.config.schema_data import CODECS, BabbleConfig, DegradationConfig
from miipher2.data.degradations.additive import Babble, Colour, Hum
from miipher2.data.degradations.chain import CHAIN, TRANSFORMS, Degradation, apply, draw
from miipher2.data.degradations.channel import PACKET_SAMPLES, Codec, Dc, Level, PacketLoss, QuantileClipping
from miipher2.data.degradations.filters import LowPass, Resampling
from miipher2.data.manifest import Manifest
from miipher2.data.pools import Pools
from miipher2.rng import stream

# Deterministic, so that a run of the tests is the same run; few, since each decodes and filters.
few = settings(
    max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
VALUES = {name: {"probability": 1.0} for name in TRANSFORMS}
ALWAYS = degradation_config(VALUES)


@pytest.fixture(scope="module")
def pools(root: Path) -> Pools:
    prepared = root / "data/prepared"
    speech, noises, rooms = (Manifest.read(prepared / f"{name}.parquet") for name in ("manifest", "noise", "rooms"))
    return Pools(noises, rooms, root, voices=speech.select("train"))


def snr_db_of(clean: np.ndarray, degraded: np.ndarray) -> float:
    """Return the SNR over the active speech."""
    is_speech = active_samples(clean)
    speech, noise = clean[is_speech].astype(float), (degraded - clean)[is_speech].astype(float)
    return float(10 * np.log10(np.mean(speech**2) / np.mean(noise**2)))


def lag(before: np.ndarray, after: np.ndarray) -> int:
    """Return by how many samples `after` lags, by the peak of the cross-correlation."""
    size = 2 * len(before)
    correlation = np.fft.irfft(np.fft.rfft(after, size) * np.conj(np.fft.rfft(before, size)), size)
    peak = int(correlation.argmax())
    return peak if peak < size // 2 else peak - size


def test_schema_and_chain_have_the_same_transforms(pools: Pools) -> None:
    keys = {field.name for field in fields(DegradationConfig)} - {"order"}
    assert sorted(CHAIN) == sorted(TRANSFORMS) == sorted(keys)
    assert len(draw(stream(0, "all"), ALWAYS, pools, 16000).transforms) == len(TRANSFORMS)


@few
@given(seed=st.integers(0, 2**32), samples=st.integers(1, 20000), order=st.sampled_from(["chain", "random"]))
def test_any_chain_keeps_length_range_and_the_clean_speech(pools: Pools, seed: int, samples: int, order: str) -> None:
    clean = synthetic_voice(1.25, seed=seed % 7)[:samples]
    before = clean.copy()
    clean.flags.writeable = False
    probability = float(stream(seed, "p").random())
    config = degradation_config({name: {"probability": probability} for name in TRANSFORMS} | {"order": order})
    drawn = draw(stream(seed, "x"), config, pools, samples)
    degraded = apply(clean, drawn, pools)
    np.testing.assert_array_equal(clean, before)
    assert not np.shares_memory(clean, degraded)
    assert degraded.shape == (samples,)
    assert degraded.dtype == np.float32
    assert np.isfinite(degraded).all()
    assert np.abs(degraded).max() <= 1.0
    assert not apply(np.zeros(samples, np.float32), drawn, pools).any()
    np.testing.assert_array_equal(apply(clean, Degradation.from_dict(drawn.as_dict()), pools), degraded)


@few
@given(name=st.sampled_from(["babble", "colour", "hum"]), seed=st.integers(0, 2**32), snr_db=st.floats(-5, 40))
def test_additive_transforms_have_their_snr_within_a_tenth_of_a_decibel(
    pools: Pools, name: str, seed: int, snr_db: float
) -> None:
    clean = (0.2 * synthetic_voice(1.5, seed=seed % 5)).astype(np.float32)
    clean[:4000] = 0.0
    config = getattr(degradation_config({name: {"snr_db": [snr_db, snr_db]}}), name)
    transform = TRANSFORMS[name].draw(stream(seed, "x"), config, pools, len(clean))
    assert abs(snr_db_of(clean, transform.apply(clean, pools)) - snr_db) < 0.1


@pytest.mark.parametrize("name", [name for name in CHAIN if name not in ("room", "noise", "babble", "colour", "hum")])
def test_other_transforms_delay_nothing(pools: Pools, name: str) -> None:
    clean = synthetic_voice(1.0)
    for seed in range(6):
        transform = TRANSFORMS[name].draw(stream(seed, "x"), getattr(ALWAYS, name), pools, 16000)
        assert abs(lag(clean, transform.apply(clean, pools))) <= 1


@few
@given(codec=st.sampled_from(CODECS), kbps=st.floats(8, 128), seed=st.integers(0, 20))
def test_every_codec_at_any_rate_stays_within_one_sample(pools: Pools, codec: str, kbps: float, seed: int) -> None:
    clean = synthetic_voice(1.0, seed=seed)
    coded = Codec(codec, kbps if codec in BIT_RATE_CODECS else None).apply(clean, pools)
    assert abs(lag(clean, coded)) <= 1


def test_random_order_is_drawn_and_changes_nothing_else(pools: Pools) -> None:
    orders = set()
    for seed in range(20):
        chain, shuffled = (
            draw(stream(seed, "x"), degradation_config(VALUES | {"order": order}), pools, 16000).as_dict()
            for order in ("chain", "random")
        )
        assert list(chain) == list(CHAIN)
        assert shuffled == chain  # the same values: dictionaries compare without order
        orders.add(tuple(shuffled))
    assert len(orders) == 20


def test_a_transform_that_does_not_happen_changes_no_other(pools: Pools) -> None:
    first_five = degradation_config(
        {name: VALUES[name] for name in ("room", "noise", "band_limit", "clipping", "codec")}
    )
    for seed in range(10):
        some, every = (draw(stream(seed, "x"), config, pools, 16000).as_dict() for config in (first_five, ALWAYS))
        assert some.items() <= every.items()


def test_babble_is_several_voices_of_the_pool(pools: Pools) -> None:
    clean = synthetic_voice(1.0)
    config = BabbleConfig(snr_db=[5.0, 5.0], voices=[2, 4])
    drawn = [Babble.draw(stream(seed, "x"), config, pools, 16000) for seed in range(40)]
    assert {len(babble.voices) for babble in drawn} == {2, 3, 4}
    assert {index for babble in drawn for index in babble.voices} == set(range(len(pools.voices)))
    one = Babble((3,), (0.0,), (-3.0,), 10.0).apply(clean, pools) - clean
    wave, rate_hz = pools.read_voice(3, 0.0, 16000)
    assert pools.voices.row(3).sample_rate_hz == rate_hz
    alone = resample(wave, rate_hz, 16000)[:16000]
    assert np.corrcoef(one, alone)[0, 1] > 0.999


def test_coloured_noise_falls_by_its_slope(pools: Pools) -> None:
    clean = np.full(32000, 0.1, np.float32)
    for slope in (0.0, 1.0, 2.0):
        power = np.abs(np.fft.rfft(Colour(slope, 7, 0.0).apply(clean, pools) - clean)) ** 2
        low, high = power[400:800].mean(), power[6400:12800].mean()  # 200-400 Hz and 3200-6400 Hz: four octaves
        assert 10 * np.log10(low / high) == pytest.approx(slope * 12.04, abs=1.0)


def test_hum_is_harmonics_of_the_mains(pools: Pools) -> None:
    clean = np.full(32000, 0.1, np.float32)
    power = np.abs(np.fft.rfft(Hum(50.0, 5, 3, 0.0).apply(clean, pools) - clean)) ** 2
    assert sorted(np.argsort(power)[-5:]) == [100, 200, 300, 400, 500]  # bins of half a hertz
    assert power[[100, 200, 300, 400, 500]].sum() > 0.999 * power.sum()


def test_resampling_and_low_pass_cut_at_their_frequency(pools: Pools) -> None:
    white = stream(0, "white").uniform(-0.5, 0.5, 16000).astype(np.float32)
    before = np.abs(np.fft.rfft(white)) ** 2
    for rate_hz in (4000, 8000, 11025):
        after = np.abs(np.fft.rfft(Resampling(rate_hz).apply(white, pools))) ** 2
        assert after[rate_hz // 2 + 100 :].sum() < 1e-3 * before[rate_hz // 2 + 100 :].sum()
        assert after[: rate_hz * 2 // 5].sum() == pytest.approx(before[: rate_hz * 2 // 5].sum(), rel=0.02)
    np.testing.assert_array_equal(Resampling(22050).apply(white, pools), white)
    for order in (1, 4, 8):
        after = np.abs(np.fft.rfft(LowPass(2000.0, order).apply(white, pools))) ** 2
        gains = [10 * np.log10(after[at - 20 : at + 20].sum() / before[at - 20 : at + 20].sum()) for at in (2000, 4000)]
        assert gains[0] == pytest.approx(-3.0, abs=0.4)
        assert gains[1] == pytest.approx(-10 * np.log10(1 + 4**order), abs=1.0)  # steep within the bins summed


@pytest.mark.parametrize("concealment", ["silence", "repeat"])
def test_packet_loss_loses_whole_packets_and_about_its_share(pools: Pools, concealment: str) -> None:
    wave = np.full(PACKET_SAMPLES * 500, 0.5, np.float32)
    lost = []
    for seed in range(20):
        packets = PacketLoss(0.1, 0.06, concealment, seed).apply(wave, pools).reshape(500, PACKET_SAMPLES)
        assert (packets == packets[:, :1]).all()
        lost.append(float((packets[:, 0] < 0.5).mean()))
        if concealment == "silence":
            assert set(np.unique(packets)) <= {0.0, 0.5}
    assert 0.08 < np.mean(lost) <= 0.1


def test_level_dc_and_quantile_clipping_have_the_drawn_size(pools: Pools) -> None:
    wave = synthetic_voice(0.5)
    np.testing.assert_allclose(Level(-20.0).apply(wave, pools), wave / 10, rtol=1e-5)
    np.testing.assert_allclose(Dc(0.05).apply(wave, pools), wave + 0.05, atol=1e-7)
    clipped = QuantileClipping(0.1, 0.05).apply(wave, pools)
    assert (clipped == clipped.min()).mean() == pytest.approx(0.1, abs=0.01)
    assert (clipped == clipped.max()).mean() == pytest.approx(0.05, abs=0.01)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "configs/degradation").glob("*.yaml")))
def test_every_shipped_configuration_fits_the_schema_and_draws(pools: Pools, name: str) -> None:
    loaded = OmegaConf.load(ROOT / f"configs/degradation/{name}.yaml")
    config = degradation_config(loaded)
    happened = {key for seed in range(200) for key in draw(stream(seed, name), config, pools, 16000).as_dict()}
    assert happened == {key for key, values in loaded.items() if key != "order" and values.probability > 0}
