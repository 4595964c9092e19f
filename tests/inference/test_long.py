"""Long recordings: windows and chunks that change nothing, and statistics that are those of the whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_weights import ENCODERS, load, publish_all, wave

from miipher2.inference.restorer import Options, Restorer
from miipher2.inference.windows import Grid, Joiner
from miipher2.models.encoder.encoder import EncoderFrames
from miipher2.models.vocoder.generator import ChunkPosition

# Each encoder with HiFi-GAN, and the other generators.
KINDS = {kind: (kind, "hifigan") for kind in ENCODERS} | {
    "vocos": ("hubert", "vocos"),
    "harmonic_vocos": ("hubert", "harmonic_vocos"),
}
SHORT_WINDOWS = Options(window_seconds=6.0, overlap_seconds=3.0)


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in KINDS}
    for kind, folder in folders.items():
        encoder, generator = KINDS[kind]
        publish_all(folder, encoder, generator=generator)
    return folders


def speech(seconds: float, rate_hz: int = 16_000) -> np.ndarray:
    """Noise whose level and offset wander, so that no part has the statistics of the whole."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    level = 0.6 + 0.5 * np.sin(2 * np.pi * time / 7.3)
    return (level * wave(len(time)) + 0.02 * np.sin(2 * np.pi * time / 11)).astype(np.float32)


def by_hand(restorer: Restorer, heard: np.ndarray, grid: Grid) -> np.ndarray:
    """The definition: the front end of the whole, windows of its frames, the vocoder over the whole."""
    halo, hop = restorer.vocoder.generator.context_frames, restorer.vocoder.generator.hop_samples
    frames = -(-len(heard) // 320)
    right = (frames + halo) * 320 - len(heard)
    continued = np.pad(heard, (halo * 320, right), mode="symmetric")
    with torch.inference_mode():
        hidden = restorer.encoder.extract_frames(torch.from_numpy(continued)[None]).hidden
        joiner = Joiner(grid, hidden.shape[1])
        features = np.concatenate(
            [
                joiner.add(start, stop, made[0].numpy())
                for start, stop in grid.spans(hidden.shape[1])
                for made in [restorer.encoder.encode_frames(EncoderFrames(hidden[:, start:stop], None), adapted=True)]
            ]
        )
        made = restorer.vocoder(torch.from_numpy(features)[None])[0].numpy()
    return made[halo * hop :][: len(heard)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [0.01, 2.503, 20.007])
def test_a_recording_is_restored_as_its_definition_says(roots: dict[str, Path], kind: str, seconds: float) -> None:
    restorer = load(roots[kind], options=SHORT_WINDOWS, chunk_seconds=1.3)
    heard = speech(seconds)
    wanted = by_hand(restorer, heard, SHORT_WINDOWS.grid())
    np.testing.assert_allclose(restorer(heard, 16_000), wanted, atol=1e-4)
    assert wanted.std() > 0.01


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"mini"}))  # its statistics do not depend on the recording
def test_the_result_depends_on_neither_chunks_nor_batches(roots: dict[str, Path], kind: str) -> None:
    stereo = np.stack([speech(10.2, 22_050), speech(10.2, 22_050)[::-1]])
    stereo[1, : 22_050 * 3] = 0
    results = [
        load(roots[kind], options=SHORT_WINDOWS, chunk_seconds=chunk, batch_size=batch)(stereo, 22_050)
        for chunk, batch in [(10.0, 1), (0.7, 1), (0.02, 3), (30.0, 8)]
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], atol=1e-4)


def test_the_harmonic_generator_of_these_tests_is_voiced_in_turns(roots: dict[str, Path]) -> None:
    """Else its chunks would have nothing to go on from."""
    restorer = load(roots["harmonic_vocos"])
    features = torch.from_numpy(restorer.features(speech(5.0)))[None]
    pitch = restorer.vocoder.generator.predict_pitch(restorer.vocoder.normaliser(features))
    assert 0.5 < pitch.is_voiced.float().mean() < 0.95
    assert pitch.frequency_hz.log2().std() > 0.1


def test_recordings_of_different_lengths_do_not_disturb_each_other(roots: dict[str, Path]) -> None:
    for kind in KINDS:
        restorer = load(roots[kind], options=SHORT_WINDOWS, batch_size=8, chunk_seconds=2.0)
        waves = [speech(seconds) for seconds in (0.3, 9.0, 0.001, 2.0, 5.1)]
        waves.insert(2, np.zeros(4_000, np.float32))
        passages = [restorer.open(Held(one)) for one in waves]
        made: dict[int, list[np.ndarray]] = {id(passage): [] for passage in passages}
        ends = []
        for passage, block in restorer.restore_all(passages):
            if block is None:
                ends.append(passage)
            else:
                made[id(passage)].append(block)
        assert sorted(map(id, ends)) == sorted(map(id, passages))
        for one, passage in zip(waves, passages, strict=True):
            together = np.concatenate(made[id(passage)], 1)[0]
            np.testing.assert_allclose(together, restorer(one, 16_000), atol=1e-4)


class Held:
    """A mono recording in memory."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.sample_rate_hz, self.channels, self.samples = values, 16_000, 1, len(values)

    def blocks(self):
        """Yield it at once."""
        yield self.values[None]


@pytest.mark.parametrize("kind", ["hubert", "vocos", "harmonic_vocos"])
@pytest.mark.parametrize("chunk_seconds", [0.5, 3.0])
def test_chunks_of_the_vocoder_equal_the_whole_to_100_db(
    roots: dict[str, Path], kind: str, chunk_seconds: float
) -> None:
    heard = speech(12.0)
    whole = load(roots[kind], chunk_seconds=60.0)(heard, 16_000)
    chunked = load(roots[kind], chunk_seconds=chunk_seconds)(heard, 16_000)
    assert whole.std() > 0.01
    error = np.square(whole - chunked, dtype=np.float64).mean()
    assert 10 * np.log10(np.square(whole, dtype=np.float64).mean() / max(error, 1e-30)) >= 100


def test_chunks_of_any_recordings_have_few_lengths_and_come_one_by_one_on_a_cpu(
    roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = load(roots["hubert"], chunk_seconds=3.0, batch_size=4)
    shapes, at = set(), restorer.vocoder.at

    def watched(features: torch.Tensor, place: ChunkPosition) -> torch.Tensor:
        shapes.add(tuple(features.shape[:2]))
        return at(features, place)

    monkeypatch.setattr(restorer.vocoder, "at", watched)
    rng = np.random.default_rng(0)
    for seconds in np.linspace(0.1, 7.0, 24):
        restorer(rng.uniform(-0.3, 0.3, round(16_000 * seconds)).astype(np.float32), 16_000)
    assert len(shapes) > 1
    assert {batch for batch, _ in shapes} == {1}
    longest = 150 + 2 * restorer.vocoder.generator.context_frames
    assert len(shapes) <= -(-longest // 64)
    assert max(frames for _, frames in shapes) < longest + 3


def test_a_window_must_overlap_by_more_than_it_drops() -> None:
    for window, overlap in [(20.0, 1.0), (4.0, 3.0)]:
        with pytest.raises(ValueError, match=r"should overlap by 2\.96 s at least and by half a window at most"):
            Options(window_seconds=window, overlap_seconds=overlap)


@pytest.mark.parametrize("frames", [1, 300, 301, 449, 450, 451, 5_000])
def test_windows_cover_each_frame_once(frames: int) -> None:
    grid = Grid(300, 150)
    spans = list(grid.spans(frames))
    joiner = Joiner(grid, frames)
    ramp = np.arange(frames, dtype=np.float32)[:, None]
    joined = np.concatenate([joiner.add(start, stop, ramp[start:stop]) for start, stop in spans])
    np.testing.assert_allclose(joined, ramp, rtol=1e-6)
    assert [start for start, _ in spans] == [150 * number for number in range(len(spans))]


@pytest.mark.parametrize("kind", ENCODERS)
def test_bfloat16_is_near_float32(roots: dict[str, Path], kind: str) -> None:
    heard = speech(3.0)
    exact = load(roots[kind])(heard, 16_000)
    rounded = load(roots[kind], options=Options(precision="bf16"))(heard, 16_000)
    assert not np.array_equal(exact, rounded)
    assert np.corrcoef(exact, rounded)[0, 1] > 0.95
