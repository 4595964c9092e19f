"""Streaming: windows and chunks do not change the result, and statistics are those of the whole recording."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_weights import ENCODERS, load, publish_all, wave

from miipher2.inference.batching import HostCopy
from miipher2.inference.options import RestoreOptions
from miipher2.inference.restorer import Restorer
from miipher2.inference.streaming import Chunk, CrossFader, WindowGrid
from miipher2.models.encoder.encoder import EncoderFrames
from miipher2.models.vocoder.generator import ChunkPosition

# Each encoder with HiFi-GAN, and the other generators.
NETWORKS = {encoder: (encoder, "hifigan") for encoder in ENCODERS} | {
    "conformer_hifigan": ("hubert", "conformer_hifigan"),
    "vocos": ("hubert", "vocos"),
    "harmonic_vocos": ("hubert", "harmonic_vocos"),
}
SHORT_WINDOWS = {"level": "model", "window_seconds": 6.0, "overlap_seconds": 3.0}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in NETWORKS}
    for name, folder in folders.items():
        encoder, generator = NETWORKS[name]
        publish_all(folder, encoder, generator=generator)
    return folders


def varying_noise(seconds: float, rate_hz: int = 16_000) -> np.ndarray:
    """Return noise whose level and offset vary, so that no part has the statistics of the whole."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    level = 0.6 + 0.5 * np.sin(2 * np.pi * time / 7.3)
    return (level * wave(len(time)) + 0.02 * np.sin(2 * np.pi * time / 11)).astype(np.float32)


def restore_at_once(restorer: Restorer, values: np.ndarray) -> np.ndarray:
    """Restore without streaming: front end and vocoder over the whole recording, attention in windows."""
    context, hop = restorer.vocoder.generator.context_frames, restorer.vocoder.generator.hop_samples
    grid = WindowGrid(restorer.options.window_frames, restorer.options.overlap_frames)
    frames = -(-len(values) // 320)
    right = (frames + context) * 320 - len(values)
    continued = np.pad(values, (context * 320, right), mode="symmetric")
    with torch.inference_mode():
        hidden = restorer.encoder.extract_frames(torch.from_numpy(continued)[None]).hidden
        fader = CrossFader(grid, hidden.shape[1])
        parts = []
        for start, stop in grid.spans(hidden.shape[1]):
            features = restorer.encoder.encode_frames(EncoderFrames(hidden[:, start:stop], None), adapted=True)
            features = restorer.vocoder.embed_window(features, None)
            parts.append(fader.add(start, stop, features[0].numpy()))
        at_start = ChunkPosition(torch.zeros(1, dtype=torch.long), torch.zeros(1))
        whole = torch.from_numpy(np.concatenate(parts))[None]
        restored = restorer.vocoder.forward_chunk(whole, at_start)[0].numpy()
    return restored[context * hop :][: len(values)]


@pytest.mark.parametrize("networks", NETWORKS)
@pytest.mark.parametrize("seconds", [0.01, 2.503, 20.007])
def test_streaming_gives_what_the_whole_recording_gives(roots: dict[str, Path], networks: str, seconds: float) -> None:
    restorer = load(roots[networks], chunk_seconds=1.3, **SHORT_WINDOWS)
    values = varying_noise(seconds)
    expected = restore_at_once(restorer, values)
    np.testing.assert_allclose(restorer(values, 16_000), expected, atol=1e-4)
    assert expected.std() > 0.01


@pytest.mark.parametrize("networks", sorted(NETWORKS.keys() - {"mini"}))  # mini's statistics are fixed
def test_result_depends_on_neither_chunks_nor_batches(roots: dict[str, Path], networks: str) -> None:
    stereo = np.stack([varying_noise(10.2, 22_050), varying_noise(10.2, 22_050)[::-1]])
    stereo[1, : 22_050 * 3] = 0
    results = [
        load(roots[networks], chunk_seconds=chunk, batch_size=batch, **SHORT_WINDOWS)(stereo, 22_050)
        for chunk, batch in [(10.0, 1), (0.7, 1), (0.02, 3), (30.0, 8)]
    ]
    # The pitch depends on which logit is the largest: of two that are nearly equal, rounding selects one.
    tolerance = 5e-3 if networks == "harmonic_vocos" else 1e-4
    assert np.abs(results[0]).max() > 100 * tolerance or networks == "vocos"
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=tolerance)


def test_harmonic_generator_of_these_tests_is_voiced_in_turns(roots: dict[str, Path]) -> None:
    """Its chunks would otherwise have no phase to continue."""
    restorer = load(roots["harmonic_vocos"])
    features = torch.from_numpy(restorer.features(varying_noise(5.0)))[None]
    generator: Any = restorer.vocoder.generator
    pitch = generator.predict_pitch(restorer.vocoder.normaliser(features))
    assert 0.5 < pitch.is_voiced.float().mean() < 0.95
    assert pitch.frequency_hz.log2().std() > 0.1


def test_recordings_of_different_lengths_in_a_batch_do_not_affect_each_other(roots: dict[str, Path]) -> None:
    for networks in NETWORKS:
        restorer = load(roots[networks], batch_size=8, chunk_seconds=2.0, **SHORT_WINDOWS)
        waves = [varying_noise(seconds) for seconds in (0.3, 9.0, 0.001, 2.0, 5.1)]
        waves.insert(2, np.zeros(4_000, np.float32))
        streams = [restorer.open(MonoSource(values)) for values in waves]
        blocks: dict[int, list[np.ndarray]] = {id(stream): [] for stream in streams}
        finished = []
        for stream, block in restorer.restore_streams(streams):
            if block is None:
                finished.append(stream)
            else:
                blocks[id(stream)].append(block)
        assert sorted(map(id, finished)) == sorted(map(id, streams))
        for values, stream in zip(waves, streams, strict=True):
            together = np.concatenate(blocks[id(stream)], 1)[0]
            np.testing.assert_allclose(together, restorer(values, 16_000), atol=1e-4)


def test_a_recording_that_fails_ends_once_and_the_next_goes_on(roots: dict[str, Path]) -> None:
    """It fails in its middle, when windows of it are already read."""
    restorer = load(roots["hubert"], chunk_seconds=1.0, **SHORT_WINDOWS)
    values = varying_noise(3.0)
    streams = [restorer.open(MonoSource(each)) for each in (varying_noise(20.0), values)]
    vocode = restorer.networks.vocode

    def vocode_with_nan(chunks: Sequence[Chunk]) -> HostCopy:
        is_broken = torch.tensor([chunk.stream is streams[0] and chunk.first_frame > 400 for chunk in chunks])
        waves = torch.from_numpy(np.stack(vocode(chunks).rows()))
        return HostCopy(waves.masked_fill(is_broken[:, None], torch.nan))

    restorer.networks.vocode = vocode_with_nan  # type: ignore[method-assign]
    pairs = list(restorer.restore_streams(streams))
    assert [stream for stream, block in pairs if block is None] == streams
    assert "not finite" in str(streams[0].failure)
    samples = sum(block.shape[1] for stream, block in pairs if stream is streams[0] and block is not None)
    assert 0 < samples < 15 * restorer.sample_rate_hz
    restored = np.concatenate([block for stream, block in pairs if stream is streams[1] and block is not None], 1)[0]
    restorer.networks.vocode = vocode  # type: ignore[method-assign]
    np.testing.assert_allclose(restored, restorer(values, 16_000), atol=1e-4)


class MonoSource:
    """A mono recording in memory, as one block."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.sample_rate_hz, self.channels, self.samples = values, 16_000, 1, len(values)

    def blocks(self) -> Iterator[np.ndarray]:
        yield self.values[None]


@pytest.mark.parametrize("networks", ["hubert", "conformer_hifigan", "vocos", "harmonic_vocos"])
@pytest.mark.parametrize("chunk_seconds", [0.5, 3.0])
def test_vocoder_chunks_equal_the_whole_to_100_db(roots: dict[str, Path], networks: str, chunk_seconds: float) -> None:
    values = varying_noise(12.0)
    whole = load(roots[networks], chunk_seconds=60.0)(values, 16_000)
    chunked = load(roots[networks], chunk_seconds=chunk_seconds)(values, 16_000)
    assert whole.std() > 0.01
    error = np.square(whole - chunked, dtype=np.float64).mean()
    assert 10 * np.log10(np.square(whole, dtype=np.float64).mean() / max(error, 1e-30)) >= 100


def test_chunks_have_few_lengths_and_run_one_by_one_on_a_cpu(
    roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = load(roots["hubert"], chunk_seconds=3.0, batch_size=4)
    shapes, forward_chunk = set(), restorer.vocoder.forward_chunk

    def recording_shapes(features: torch.Tensor, position: ChunkPosition) -> torch.Tensor:
        shapes.add(tuple(features.shape[:2]))
        return forward_chunk(features, position)

    monkeypatch.setattr(restorer.vocoder, "forward_chunk", recording_shapes)
    rng = np.random.default_rng(0)
    for seconds in np.linspace(0.1, 7.0, 24):
        restorer(rng.uniform(-0.3, 0.3, round(16_000 * seconds)).astype(np.float32), 16_000)
    assert len(shapes) > 1
    assert {batch for batch, _ in shapes} == {1}
    longest = 150 + 2 * restorer.vocoder.generator.context_frames
    assert len(shapes) <= -(-longest // 64)
    assert max(frames for _, frames in shapes) < longest + 3


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"overlap_seconds": 1.0}, r"should overlap by at least 2\.96 s and at most half a window"),
        ({"window_seconds": 4.0}, r"should overlap by at least 2\.96 s and at most half a window"),
        ({"precision": "fp16"}, "precision 'fp16'; should be one of auto, fp32, tf32, bf16"),
        ({"strength": -0.1}, "strength -0.1; should be from 0 to 1"),
        ({"strength": 1.5}, "strength 1.5; should be from 0 to 1"),
        ({"strength": float("nan")}, "strength nan; should be from 0 to 1"),
        ({"batch_size": 0}, "batch_size 0; should be at least 1"),
        ({"chunk_seconds": 0.001}, r"chunk_seconds 0\.001; should be at least 0\.02"),
    ],
)
def test_options_out_of_range_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RestoreOptions(**wrong)


@pytest.mark.parametrize("frames", [1, 300, 301, 449, 450, 451, 5_000])
def test_windows_cover_each_frame_once(frames: int) -> None:
    grid = WindowGrid(300, 150)
    spans = list(grid.spans(frames))
    fader = CrossFader(grid, frames)
    ramp = np.arange(frames, dtype=np.float32)[:, None]
    joined = np.concatenate([fader.add(start, stop, ramp[start:stop]) for start, stop in spans])
    np.testing.assert_allclose(joined, ramp, rtol=1e-6)
    assert [start for start, _ in spans] == [150 * number for number in range(len(spans))]


@pytest.mark.parametrize("encoder", ENCODERS)
def test_bfloat16_is_close_to_float32(roots: dict[str, Path], encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miipher2.models.precision.has_bfloat16", lambda _: True)  # imitated, if need be
    values = varying_noise(3.0)
    exact = load(roots[encoder])(values, 16_000)
    rounded = load(roots[encoder], precision="bf16")(values, 16_000)
    assert not np.array_equal(exact, rounded)
    assert np.corrcoef(exact, rounded)[0, 1] > 0.95
