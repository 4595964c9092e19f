"""`miipher2 evaluate`: files or folders of clean, degraded and restored speech in, metrics with intervals out."""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miipher2.cli.arguments import number, path, text, whole

if TYPE_CHECKING:
    import numpy as np

    from miipher2.evaluation.evaluate import Evaluation, System, Utterance

EVALUATE = """\
Measure degraded and restored speech against clean speech: content, speaker and quality, with confidence intervals.

CLEAN, DEGRADED and RESTORED are files, or folders whose files have the same paths except for the suffix. CLEAN is `-`
where there are no clean recordings; then only metrics without a reference are measured (dnsmos, distillmos). Spectral
subtraction is measured as a baseline. Files are cut or padded to the length of the clean one where they differ by no
more than the largest delay (0.1 s). A file that cannot be measured becomes a row with the reason, and so does a skipped
metric; the others are measured.

With --asr, words (`characters`) are recognised by Whisper, in any language; otherwise by pocketsphinx, which is weak
and English only. They are compared with the transcript, a .txt or .lab of the same name beside the clean recording;
where there is none, with the words recognised in the clean recording.

The gate says what RESTORED has lost against DEGRADED: words first, then the speaker, then quality.

metrics: characters, estoi, speaker, pitch, dnsmos, distillmos, pesq, si_sdr, log_mel, log_spectral_distance, bands
  (all but the last three need `uv sync --extra metrics`)
exit codes: 0 all measured, 1 some failed, 2 wrong usage or input

examples:
  miipher2 evaluate clean/ noisy/ restored/
  miipher2 evaluate clean.wav noisy.wav restored.wav --metrics log_mel,estoi,speaker
  miipher2 evaluate clean/ noisy/ restored/ --asr whisper-base --language folder   # clean/fr/a.wav, clean/en/b.wav
  miipher2 evaluate - noisy/ restored/ --system theirs=their_output/ --out results/
"""
BASELINE = "spectral_subtraction"
GATE = {"character_error": 0.05, "estoi": 0.05, "speaker_cosine": 0.05, "dnsmos_ovrl": 0.1, "distillmos": 0.1}
FOLDER = "folder"  # the language of a recording is the name of its first folder
EXAMPLES, RESAMPLES, CONFIDENCE = 6, 2000, 0.95


def add_parser(commands: Any) -> None:
    """Add `evaluate` to the command line."""
    parser = commands.add_parser("evaluate", help="measure restored speech", description=EVALUATE)
    parser.add_argument(
        "clean", type=text, metavar="CLEAN", help="the clean recording, a folder of them, or - for none"
    )
    parser.add_argument("degraded", type=path, metavar="DEGRADED", help="the same, degraded")
    parser.add_argument("restored", type=path, metavar="RESTORED", help="the same, restored")
    parser.add_argument("--system", action="append", default=[], metavar="NAME=PATH", help="another system's output")
    parser.add_argument("--metrics", type=text, metavar="A,B", help="only these (default: all)")
    parser.add_argument(
        "--rate",
        type=whole(1000, 768_000),
        metavar="HZ",
        help="resample everything to this rate (default: no resampling)",
    )
    parser.add_argument(
        "--language",
        default="",
        metavar="EN",
        help="of the speech; `folder`: the name of each recording's first folder (with --asr detected where not given)",
    )
    parser.add_argument(
        "--asr",
        type=text,
        metavar="MODEL",
        help="recognise words by whisper-base (extra whisper-base), a folder in CTranslate2 form, or a name on the "
        "hub, such as small (both: extra asr)",
    )
    parser.add_argument(
        "--asr-type", choices=("float32", "int8"), default="float32", help="that the model computes in (float32)"
    )
    parser.add_argument(
        "--max-delay", type=number(0, 60), default=0.1, metavar="S", help="largest delay of a system (0.1)"
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="of the bootstrap (0)")
    parser.add_argument(
        "--out", type=path, default=Path("evaluation"), metavar="DIR", help="for CSV, JSON and the page (evaluation/)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, write and print the results, list failures, and return the exit code."""
    others = _other_systems(arguments.system)
    paths = {"degraded": arguments.degraded, **others, "restored": arguments.restored}
    if arguments.clean != "-":
        paths = {"clean": Path(arguments.clean), **paths}
    files = {name: find_recordings(path, has_transcripts=name == "clean") for name, path in paths.items()}
    check_out(arguments.out)

    from miipher2.evaluation.evaluate import Evaluation, Row, evaluate
    from miipher2.evaluation.metrics.asr import load_asr
    from miipher2.evaluation.metrics.baseline import spectral_subtraction
    from miipher2.evaluation.metrics.registry import METRICS, check_names
    from miipher2.evaluation.progress import progress
    from miipher2.evaluation.report import select_examples, write_report
    from miipher2.evaluation.summary import Bootstrap, summarise, write_results, write_rows, wrote

    metrics = arguments.metrics.split(",") if arguments.metrics else list(METRICS)
    check_names(metrics)
    if arguments.asr is not None and "characters" not in metrics:
        raise ValueError(f"--asr {arguments.asr}: --metrics {arguments.metrics} should have characters too")
    asr = load_asr(arguments.asr, arguments.asr_type, Path())
    reason = "" if arguments.language == FOLDER else asr.refusal(arguments.language)
    if arguments.asr is not None and reason:
        raise ValueError(f"--language {arguments.language}: {reason}")
    reader = RecordingReader(files, arguments.rate, arguments.max_delay)
    utterances, unreadable = _read_utterances(reader, arguments.language)
    systems: dict[str, System] = {BASELINE: lambda name: spectral_subtraction(utterances[name].degraded)}
    for system in [*others, "restored"]:
        systems[system] = partial(reader.read_fitted, system)
    if utterances:
        shown = progress(utterances.values(), len(utterances), "measured")
        evaluation = evaluate(shown, systems, reader.rate_hz, metrics, arguments.max_delay, asr)
    else:
        evaluation = Evaluation((), tuple(systems), reader.rate_hz)
    rows = (Row(name, 0.0, {}, reason, is_counted=False) for name, reason in unreadable.items())
    evaluation = replace(evaluation, rows=(*evaluation.rows, *rows))
    if not evaluation.worst_first():  # no means without a counted utterance
        sys.stdout.write(wrote(write_rows(arguments.out, evaluation)))
        return _list_failures(evaluation)
    summary = summarise(evaluation, Bootstrap(RESAMPLES, CONFIDENCE, arguments.seed), GATE)
    files_written = write_results(arguments.out, summary)
    examples, worst = select_examples(evaluation, utterances, systems, EXAMPLES)
    about = {"Command": "miipher2 evaluate"}
    page = arguments.out / "index.html"
    write_report(page, summary, examples, worst=worst, title="Restored speech", about=about)
    sys.stdout.write(summary.text() + wrote([*files_written, page]))
    return _list_failures(evaluation)


def check_out(folder: Path) -> None:
    """Check that the results may be written into a folder.

    Raises:
        ValueError: they may not.
    """
    from miipher2.config.paths import check_output, check_replaces_nothing

    check_output(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder}: is a file; should be a folder")
    names = ("evaluate.json", "evaluate_details.json", "evaluate_table.csv", "index.html")
    check_replaces_nothing(folder, names, "evaluate.csv")


def find_recordings(path: Path, has_transcripts: bool = False) -> dict[str, Path]:
    """Return the recordings below a folder by their path without suffix, or one recording under the name "".

    Raises:
        ValueError: there is no such path, it holds no recording, or two that differ only in their suffix.
    """
    from miipher2.audio.files import SOUND_SUFFIXES, find_sound_files, printable
    from miipher2.data.transcripts import find_beside

    if path.is_file():
        return {"": path}
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder")
    recordings: dict[str, Path] = {}
    found = find_sound_files(path)
    if has_transcripts:
        transcripts = [text for file in found.paths if (text := find_beside(file)) is not None]
        found = found._replace(passed_over=found.passed_over - Counter(text.suffix for text in transcripts))
    sys.stderr.write(found.passed_over_line(path))
    for file in found.paths:
        name = printable(file.relative_to(path).with_suffix("").as_posix())
        if name in recordings:
            raise ValueError(f"{recordings[name]} and {file} have the same name; keep one of them")
        recordings[name] = file
    if not recordings:
        raise ValueError(f"{path}: holds no recordings ({', '.join(SOUND_SUFFIXES)})")
    return recordings


class RecordingReader:
    """Reads the recordings of all systems at one rate: the requested one, or that of the first recording read.

    Args:
        files: for each system, its recordings by name.
        max_delay_seconds: by how much lengths may differ.
    """

    def __init__(self, files: Mapping[str, Mapping[str, Path]], rate_hz: int | None, max_delay_seconds: float) -> None:
        self.files, self.resamples = files, rate_hz is not None
        self.rate_hz, self.max_delay_seconds = rate_hz or 0, max_delay_seconds
        self._samples: dict[str, int] = {}

    def names(self) -> list[str]:
        """Return the names of all recordings."""
        return sorted({name for files in self.files.values() for name in files})

    def read_fitted(self, system: str, name: str) -> "np.ndarray":
        """Return a recording, cut or padded to the length of the first one of its name.

        Raises:
            ValueError: it is missing or unreadable, or its rate or length differs too much.
        """
        import numpy as np

        from miipher2.audio.io import read_audio
        from miipher2.audio.resample import resample

        if name not in self.files[system]:
            raise ValueError("there is no such recording")
        wave, rate_hz = read_audio(self.files[system][name])
        self.rate_hz = self.rate_hz or rate_hz
        if rate_hz != self.rate_hz and not self.resamples:
            raise ValueError(f"{rate_hz} Hz; the others have {self.rate_hz} Hz; --rate {self.rate_hz} resamples")
        wave = resample(wave, rate_hz, self.rate_hz)
        samples = self._samples.setdefault(name, len(wave))
        if abs(len(wave) - samples) > self.max_delay_seconds * self.rate_hz:
            seconds = f"{len(wave) / self.rate_hz:.2f} s; the first recording has {samples / self.rate_hz:.2f} s"
            raise ValueError(f"{seconds}; --max-delay sets how much they may differ")
        return np.pad(wave[:samples], (0, max(0, samples - len(wave))))


def _read_utterances(reader: RecordingReader, language: str) -> tuple[dict[str, "Utterance"], dict[str, str]]:
    """Return the utterances by name, and by name the reason why others cannot be read."""
    from miipher2.data.transcripts import read_beside
    from miipher2.evaluation.evaluate import Utterance

    utterances: dict[str, Utterance] = {}
    unreadable: dict[str, str] = {}
    for name in reader.names():
        spoken = name.rpartition("/")[0].partition("/")[0] if language == FOLDER else language
        labels = {"language": (spoken,)} if spoken else {}
        waves: dict[str, np.ndarray] = {}
        for system in [system for system in ("clean", "degraded") if system in reader.files]:
            try:
                waves[system] = reader.read_fitted(system, name)
            except ValueError as error:
                unreadable.setdefault(name, f"{system}: {' '.join(str(error).split())}")
        transcript = ""
        if "clean" in waves:
            try:
                transcript = read_beside(reader.files["clean"][name])
            except ValueError as error:
                unreadable.setdefault(name, f"transcript: {error}")
        if name not in unreadable:
            clean, degraded = waves.get("clean"), waves["degraded"]
            utterances[name] = Utterance(name, clean, degraded, labels=labels, transcript=transcript)
    return utterances, unreadable


def _list_failures(evaluation: "Evaluation") -> int:
    """Print the failures, and return the exit code."""
    for row in evaluation.failures():
        sys.stderr.write(f"{row.name}: {row.reason}\n")
    return 1 if evaluation.failures() else 0


def _other_systems(words: list[str]) -> dict[str, Path]:
    """Return the paths of other systems by name."""
    systems: dict[str, Path] = {}
    for word in words:
        name, separator, path = word.partition("=")
        if not (separator and name and path):
            raise ValueError(f"--system {word}: should be NAME=PATH")
        if "/" in name or not name.isprintable():
            raise ValueError(f"--system {word}: the name {name!r} should have no / or line break")
        if name in systems or name in ("clean", "degraded", "restored", BASELINE):
            raise ValueError(f"--system {word}: the name '{name}' is already used; should be another one")
        systems[name] = Path(path)
    return systems
