"""Evaluate the shipped mini model on voices outside its training data, and update the tables of docs/model_card.md.

uv run benchmarks/mini_model.py [--split test] [--utterances 60] [--write | --curve]

The recordings are those of data/mini_speech/{valid,test} (stages/gather_mini_speech.py). They are degraded by the code
below, which is independent of the degradations of training, then restored and measured by the command line. With
--curve they are restored at several strengths, and words, speaker and quality are printed over them.
"""

import argparse
import csv
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile as sf
from jaxtyping import Float64
from results_table import format_tables, replace_tables
from scipy.signal import butter, fftconvolve, sosfilt

from miipher2.cli.restore import SHIPPED
from miipher2.config.paths import ROOT
from miipher2.evaluation.evaluate import Evaluation, Row
from miipher2.evaluation.metrics.feature_error import Features, error_ratios, feature_errors
from miipher2.evaluation.metrics.registry import VALUES
from miipher2.evaluation.summary import Bootstrap, summarise
from miipher2.inference.restorer import Restorer

RATE_HZ = 16_000
Wave = Float64[np.ndarray, " time"]
WORDS = ("--asr", "whisper-base", "--language", "folder")
VOICE_METRICS = (
    *("character_error", "estoi", "speaker_cosine", "pitch_error"),
    *("dnsmos_ovrl", "distillmos", "log_spectral_distance"),
)
SYSTEMS = ("degraded", "restored")
STRENGTHS = ("0", "0.25", "0.5", "0.75", "1")
CURVE_METRICS = {  # as the command names them: the value in the table
    "characters": "character_error",
    "speaker": "speaker_cosine",
    "dnsmos": "dnsmos_ovrl",
    "distillmos": "distillmos",
    "estoi": "estoi",
}
BEGIN, END = "<!-- tables: benchmarks/mini_model.py -->", "<!-- end of tables -->"


def main() -> None:
    """Degrade, restore and measure; write the tables with --write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("valid", "test"), default="test", help="choose on valid, measure on test")
    parser.add_argument("--speech", type=Path, default=ROOT / "data/mini_speech", metavar="DIR", help="gathered speech")
    parser.add_argument("--utterances", type=int, default=60, metavar="N", help="spread over the speakers (60)")
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="evaluate this one instead of what ships")
    parser.add_argument("--out", type=Path, default=ROOT / "exp/mini_model", metavar="DIR", help="(exp/mini_model)")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="put the tables into docs/model_card.md")
    action.add_argument("--curve", action="store_true", help="print the curve over `restore --strength` instead")
    options = parser.parse_args()
    out = options.out / options.split
    shutil.rmtree(out, ignore_errors=True)
    for path in select_recordings(options.speech / options.split, options.utterances):
        write_pair(path, out, f"{language_of(path.parent.name)}/{path.parent.name}_{path.stem}")
    weights = [] if options.bundle is None else ["--bundle", str(options.bundle)]
    if options.curve:
        print(format_curve(out, weights))
        return
    for source, target in (("degraded", "restored"), ("clean", "passed")):
        run_command("restore", out / source, out / target, *weights)
    measured = {
        "Degraded speech": ("clean", "degraded", "restored"),
        "Clean speech passed through (`degraded` is the clean recording itself)": ("clean", "clean", "passed"),
    }
    results = {title: out / f"results_{folders[2]}" for title, folders in measured.items()}

    def measure(title: str) -> None:
        run_command("evaluate", *(out / folder for folder in measured[title]), *WORDS, "--out", results[title])

    with ThreadPoolExecutor(len(measured)) as side_by_side:
        list(side_by_side.map(measure, measured))
    parts = [f"### {title}\n\n{format_tables(folder)}\n{format_voices(folder)}" for title, folder in results.items()]
    parts.append(format_feature_errors(out, options.bundle or ROOT / SHIPPED))
    tables = "\n".join(parts)
    print(tables)
    if options.write:
        page = ROOT / "docs/model_card.md"
        page.write_text(replace_tables(page.read_text(), tables, BEGIN, END))
        print(f"wrote {page}")


def select_recordings(folder: Path, count: int) -> list[Path]:
    """Return about `count` recordings, equally many of each speaker, evenly spread."""
    speakers = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not speakers:
        raise SystemExit(f"{folder}: holds no speakers; make it with stages/gather_mini_speech.py")
    each = max(1, count // len(speakers))
    return [path for speaker in speakers for path in _spread(sorted(speaker.glob("*.flac")), each)]


def _spread(paths: list[Path], count: int) -> list[Path]:
    return [paths[index * len(paths) // count] for index in range(min(count, len(paths)))]


def language_of(voice: str) -> str:
    """Return the language of a gathered voice, such as stamps_ro; the synthetic ones speak English."""
    kind, _, language = voice.partition("_")
    return language if kind in ("stamps", "prompts") else "en"


def write_pair(path: Path, out: Path, name: str) -> None:
    """Write a recording and its degraded form; the degradation depends on the last part of its name alone."""
    clean, rate_hz = sf.read(path, dtype="float64")
    if rate_hz != RATE_HZ:
        raise SystemExit(f"{path}: has {rate_hz} Hz; should have {RATE_HZ}")
    rng = np.random.default_rng(list(Path(name).name.encode()))
    clean = clean * (10 ** (rng.uniform(-30, -20) / 20) / max(_rms(clean), 1e-9))
    clean = clean * min(1.0, 0.9 / np.abs(clean).max())
    names = sorted(DEGRADATIONS)
    degraded = DEGRADATIONS[names[int(rng.integers(len(names)))]](clean, rng)
    for folder, wave in (("clean", clean), ("degraded", degraded)):
        target = out / folder / f"{name}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        sf.write(target, np.clip(wave, -1, 1), RATE_HZ)


def add_noise(clean: Wave, rng: np.random.Generator) -> Wave:
    """Add noise whose spectrum falls by 0 to 6 dB an octave, at 0 to 15 dB."""
    slope = rng.uniform(0, 1)
    spectrum = np.fft.rfft(rng.standard_normal(len(clean)))
    noise = np.fft.irfft(spectrum / np.maximum(np.arange(len(spectrum)), 20) ** slope, len(clean))
    return clean + noise * _rms(clean) / _rms(noise) / 10 ** (rng.uniform(0, 15) / 20)


def add_reverberation(clean: Wave, rng: np.random.Generator) -> Wave:
    """Convolve with noise that decays by 60 dB in 0.2 to 0.8 s, the direct sound 0 to 6 dB above it."""
    decay = rng.uniform(0.2, 0.8)
    time = np.arange(int(decay * RATE_HZ)) / RATE_HZ
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / decay)
    tail[: RATE_HZ // 400] = 0
    response = tail / np.sqrt(np.square(tail).sum()) / 10 ** (rng.uniform(0, 6) / 20)
    response[0] = 1
    return fftconvolve(clean, response)[: len(clean)]


def add_reverberation_and_noise(clean: Wave, rng: np.random.Generator) -> Wave:
    """Add reverberation, then noise."""
    return add_noise(add_reverberation(clean, rng), rng)


def simulate_telephone(clean: Wave, rng: np.random.Generator) -> Wave:
    """Keep 300 to 3400 Hz, and 6 to 8 bits by the mu-law."""
    band = sosfilt(butter(6, (300, 3400), "bandpass", fs=RATE_HZ, output="sos"), add_noise(clean, rng))
    peak = np.abs(band).max()
    bits = 2 ** rng.integers(5, 8)
    compressed = np.sign(band) * np.log1p(255 * np.abs(band) / peak) / np.log(256)
    return peak * np.sign(compressed) * (256 ** np.abs(np.round(compressed * bits) / bits) - 1) / 255


def clip(clean: Wave, rng: np.random.Generator) -> Wave:
    """Clip the loudest 2 to 15 % of values, and add a little noise."""
    limit = np.quantile(np.abs(clean), 1 - rng.uniform(0.02, 0.15))
    return np.clip(clean, -limit, limit) + 0.02 * _rms(clean) * rng.standard_normal(len(clean))


DEGRADATIONS: dict[str, Callable[[Wave, np.random.Generator], Wave]] = {
    "noisy": add_noise,
    "reverberant": add_reverberation,
    "noisy_room": add_reverberation_and_noise,
    "telephone": simulate_telephone,
    "clipped": clip,
}


def _rms(wave: Wave) -> float:
    return float(np.sqrt(np.square(wave).mean()))


def format_voices(results: Path) -> str:
    """Return each voice's means, degraded and restored, as Markdown; a recording's name begins with its voice."""
    with (results / "evaluate.csv").open(newline="") as file:
        rows = tuple(_row(line) for line in csv.DictReader(file))
    lines = summarise(Evaluation(rows, ("restored",), RATE_HZ), Bootstrap(100, 0.95, 0)).lines
    means = {(line.label, line.metric, line.system): line.value.mean for line in lines if line.label_name == "voice"}
    table = f"| voice | {' | '.join(VALUES[metric].label for metric in VOICE_METRICS)} |\n"
    table += "|---" * (len(VOICE_METRICS) + 1) + "|\n"
    for voice in sorted({label for label, _, _ in means}):
        cells = [
            " to ".join(f"{means[voice, metric, system]:.{VALUES[metric].decimals}f}" for system in SYSTEMS)
            if (voice, metric, "restored") in means
            else "–"
            for metric in VOICE_METRICS
        ]
        table += f"| {voice} | {' | '.join(cells)} |\n"
    return table


def _row(line: dict[str, str]) -> Row:
    """Return an utterance's row from its line of the CSV file, labelled with its voice."""
    keys = [f"{metric}/{system}" for metric in VOICE_METRICS for system in SYSTEMS]
    values = {key: float(line[key]) for key in keys if line.get(key)}
    labels = {"voice": (Path(line["name"]).name.rpartition("_")[0],)}
    return Row(line["name"], float(line["seconds"]), values, is_counted=line["counted"] == "yes", labels=labels)


def format_curve(out: Path, weights: list[str]) -> str:
    """Restore degraded and clean speech at every strength, and return what that does to both, as Markdown."""
    tables = []
    for source, title in (("degraded", "Degraded speech"), ("clean", "Clean speech passed through")):
        folders = {strength: out / f"{source}_{strength}" for strength in STRENGTHS}
        for strength, folder in folders.items():
            run_command("restore", out / source, folder, "--strength", strength, *weights)
        *others, last = STRENGTHS
        words = [word for strength in others for word in ("--system", f"{strength}={folders[strength]}")]
        words += ["--metrics", ",".join(CURVE_METRICS), "--out", str(out / f"results_{source}_curve")]
        run_command("evaluate", out / "clean", out / source, folders[last], *WORDS, *words)
        with (out / f"results_{source}_curve/evaluate_table.csv").open(newline="") as file:
            lines = {(line["system"], line["metric"]): line for line in csv.DictReader(file) if line["sort"] == "all"}
        rows = {"clean": "clean recording", "degraded": "input", **dict.fromkeys(others), "restored": last}
        table = f"| strength | {' | '.join(VALUES[metric].label for metric in CURVE_METRICS.values())} |\n"
        table += "|---" * (len(CURVE_METRICS) + 1) + "|\n"
        for system, label in rows.items():
            cells = (_curve_cell(lines.get((system, metric)), metric) for metric in CURVE_METRICS.values())
            table += f"| {label or system} | {' | '.join(cells)} |\n"
        tables.append(f"### {title}, by strength\n\n{table}")
    return "\n".join(tables)


def _curve_cell(line: dict[str, str] | None, metric: str) -> str:
    if line is None:
        return "–"
    mean, low, high = (f"{float(line[name]):.{VALUES[metric].decimals}f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"


def format_feature_errors(out: Path, bundle: Path) -> str:
    """Return the ratio of the cleaned to the degraded features' error, over all frames."""
    restorer = Restorer.from_bundle(bundle, root=ROOT, level="model")
    errors: dict[str, float] = defaultdict(float)
    for path in sorted((out / "clean").rglob("*.flac")):
        both = (path, out / "degraded" / path.relative_to(out / "clean"))
        clean, degraded = (sf.read(each, dtype="float32")[0] for each in both)
        features = [restorer.normalised_features(clean, adapted=False)]
        features += [restorer.normalised_features(degraded, adapted=adapted) for adapted in (False, True)]
        for name, value in feature_errors(Features(*features)).items():
            errors[name] += value * len(features[0])
    left = error_ratios(errors)
    return (
        f"### Features\n\nThe adapters leave {left['ratio']:.2f} of the degraded features' squared error, "
        f"and {left['l1_ratio']:.2f} of the absolute one.\n"
    )


def run_command(*words: str | Path) -> None:
    """Run the command line as a user would."""
    subprocess.run([sys.executable, "-m", "miipher2.cli.main", *map(str, words)], check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
