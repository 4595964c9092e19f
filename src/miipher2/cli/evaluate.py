"""`miipher2 evaluate`: files or folders of clean, degraded and restored speech in, numbers with intervals out."""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from miipher2.evaluation.evaluate import Evaluation, Item
    from miipher2.evaluation.outputs import Findings

EVALUATE = """\
Measure degraded and restored speech against clean speech: content, speaker and quality, with intervals.

CLEAN, DEGRADED and RESTORED are files, or folders whose files have one path without the suffix. CLEAN is `-` where
there is no clean recording: then only metrics without reference are had (dnsmos, distillmos). Spectral subtraction is
measured beside.
Files are cut or padded to the clean one where they differ by no more than the delay that is looked for (0.1 s).
A file that cannot be measured is a row with its reason and does not stop the others; so is a metric that is skipped.

metrics: log_mel, log_spectral_distance, bands, si_sdr, estoi, pesq, pitch, dnsmos, distillmos, speaker, characters
  (from si_sdr on they need `uv sync --extra metrics`)
exit codes: 0 all measured, 1 some failed, 2 wrong usage or input

examples:
  miipher2 evaluate clean/ noisy/ restored/
  miipher2 evaluate clean.wav noisy.wav restored.wav --metrics log_mel,estoi,speaker
  miipher2 evaluate - noisy/ restored/ --system theirs=their_output/ --out results/
"""
SUFFIXES = (".wav", ".flac", ".ogg", ".mp3", ".opus")
BASELINE, GATE = "spectral_subtraction", {"speaker_cosine": 0.05, "estoi": 0.05, "character_error": 0.05}
EXAMPLES, RESAMPLES, CONFIDENCE = 6, 2000, 0.95


def add_parser(commands: Any) -> None:
    """Add `evaluate` to the command line."""
    parser = commands.add_parser("evaluate", help="measure restored speech", description=EVALUATE)
    parser.add_argument("clean", metavar="CLEAN", help="the clean recording, a folder of them, or - for none")
    parser.add_argument("degraded", type=Path, metavar="DEGRADED", help="the same, degraded")
    parser.add_argument("restored", type=Path, metavar="RESTORED", help="the same, restored")
    parser.add_argument("--system", action="append", default=[], metavar="NAME=PATH", help="another system's output")
    parser.add_argument("--metrics", metavar="A,B", help="only these (default: all)")
    parser.add_argument("--rate", type=int, metavar="HZ", help="resample all to this rate; otherwise rates must agree")
    parser.add_argument("--language", default="", metavar="EN", help="of the speech: en has a recogniser")
    parser.add_argument("--max-delay", type=float, default=0.1, metavar="S", help="delay that is looked for (0.1)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (0)")
    parser.add_argument(
        "--out", type=Path, default=Path("evaluation"), metavar="DIR", help="gets CSV, JSON and page (evaluation/)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, write and show what was found, list failures, and return the exit code."""
    others = _systems(options.system)
    paths = {"degraded": options.degraded, **others, "restored": options.restored}
    if options.clean != "-":
        paths = {"clean": Path(options.clean), **paths}
    files = {name: find_sounds(path) for name, path in paths.items()}

    from miipher2.evaluation.bootstrap import Bootstrap
    from miipher2.evaluation.evaluate import Evaluation, evaluate
    from miipher2.evaluation.metrics.baseline import spectral_subtraction
    from miipher2.evaluation.metrics.registry import METRICS
    from miipher2.evaluation.outputs import Findings, write_results, write_rows
    from miipher2.evaluation.summary import gate, table

    read = Reader(files, options.rate, options.max_delay)
    items, unread = _items(read, options.language)
    known = {item.name: item.degraded for item in items}
    systems: dict[str, Callable[[str], np.ndarray]] = {BASELINE: lambda name: spectral_subtraction(known[name])}
    for system in [*others, "restored"]:
        systems[system] = partial(read.fitted, system)
    metrics = options.metrics.split(",") if options.metrics else list(METRICS)
    measured = (
        evaluate(items, systems, read.rate_hz, metrics, options.max_delay)
        if items
        else Evaluation((), tuple(systems), read.rate_hz)
    )
    evaluation = _with_rows(measured, unread)
    if not evaluation.worst_first():  # there is nothing to take a mean of
        write_rows(options.out, evaluation)
        return _failed(evaluation)
    chance = Bootstrap(RESAMPLES, CONFIDENCE, options.seed)
    lines = table(evaluation, chance)
    findings = Findings(evaluation, lines, gate(evaluation, lines, GATE), CONFIDENCE)
    write_results(options.out, findings)
    _write_page(options.out / "index.html", findings, items, systems)
    sys.stdout.write(findings.text())
    return _failed(evaluation)


def _failed(evaluation: "Evaluation") -> int:
    """List what failed, and return the exit code."""
    for row in evaluation.failures():
        sys.stderr.write(f"{row.name}: {row.reason}\n")
    return 1 if evaluation.failures() else 0


def find_sounds(path: Path) -> dict[str, Path]:
    """Return the recordings below a folder by their path without suffix, or one recording under the name "".

    Raises:
        ValueError: there is no such path, it holds no recording, or two that differ in their suffix only.
    """
    if path.is_file():
        return {"": path}
    if not path.is_dir():
        raise ValueError(f"{path}: no such file or folder")
    found: dict[str, Path] = {}
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in SUFFIXES and file.is_file():
            name = file.relative_to(path).with_suffix("").as_posix()
            if name in found:
                raise ValueError(f"{found[name]} and {file} have one name; keep one of them")
            found[name] = file
    if not found:
        raise ValueError(f"{path}: holds no recordings ({', '.join(SUFFIXES)})")
    return found


class Reader:
    """Reads the recordings of all systems at one rate: the one asked for, or that of the first recording read."""

    def __init__(self, files: Mapping[str, Mapping[str, Path]], rate_hz: int | None, max_delay_seconds: float) -> None:
        self.files, self.resample = files, rate_hz is not None
        self.rate_hz, self.max_delay_seconds = rate_hz or 0, max_delay_seconds
        self.samples: dict[str, int] = {}

    def names(self) -> list[str]:
        """Return the names of all recordings."""
        return sorted({name for files in self.files.values() for name in files})

    def read(self, system: str, name: str) -> "np.ndarray":
        """Return a recording; ValueError says why it is none of these."""
        from miipher2.audio.io import read_audio
        from miipher2.audio.resample import resample

        if name not in self.files[system]:
            raise ValueError("there is no such recording")
        wave, rate_hz = read_audio(self.files[system][name])
        self.rate_hz = self.rate_hz or rate_hz
        if rate_hz != self.rate_hz and not self.resample:
            raise ValueError(f"{rate_hz} Hz; the others have {self.rate_hz} Hz; --rate {self.rate_hz} resamples")
        return resample(wave, rate_hz, self.rate_hz)

    def fitted(self, system: str, name: str) -> "np.ndarray":
        """Return a recording as long as the first one of its name, which it may differ from by the largest delay."""
        import numpy as np

        wave = self.read(system, name)
        samples = self.samples.setdefault(name, len(wave))
        if abs(len(wave) - samples) > self.max_delay_seconds * self.rate_hz:
            seconds = f"{len(wave) / self.rate_hz:.2f} s; the first recording has {samples / self.rate_hz:.2f} s"
            raise ValueError(f"{seconds}; --max-delay says how much they may differ")
        return np.pad(wave[:samples], (0, max(0, samples - len(wave))))


def _items(read: Reader, language: str) -> tuple[list["Item"], dict[str, str]]:
    """Return what can be measured, and by name the reason why the rest cannot."""
    from miipher2.evaluation.evaluate import Item

    items: list[Item] = []
    unread: dict[str, str] = {}
    for name in read.names():
        waves: dict[str, np.ndarray] = {}
        for system in [system for system in ("clean", "degraded") if system in read.files]:
            try:
                waves[system] = read.fitted(system, name)
            except ValueError as error:
                unread.setdefault(name, f"{system}: {' '.join(str(error).split())}")
        if name not in unread:
            labels = {"language": (language,)} if language else {}
            items.append(Item(name, waves.get("clean"), waves["degraded"], labels=labels))
    return items, unread


def _with_rows(evaluation: "Evaluation", unread: Mapping[str, str]) -> "Evaluation":
    """Return the evaluation with a row for each recording that could not be read."""
    from miipher2.evaluation.evaluate import Row

    rows = tuple(Row(name, 0.0, {}, reason, is_counted=False) for name, reason in unread.items())
    return replace(evaluation, utterances=(*evaluation.utterances, *rows))


def _write_page(
    path: Path,
    findings: "Findings",
    items: list["Item"],
    systems: Mapping[str, Callable[[str], "np.ndarray"]],
) -> None:
    from miipher2.evaluation.report import write_report
    from miipher2.evaluation.report_examples import Example
    from miipher2.evaluation.report_tables import WORST

    known, evaluation = {item.name: item for item in items}, findings.evaluation

    def example(name: str, labels: Iterable[str]) -> Example:
        clean = known[name].clean
        waves = {} if clean is None else {"clean": clean}
        return Example(
            name, waves | {"degraded": known[name].degraded} | {label: systems[label](name) for label in labels}
        )

    write_report(
        path,
        findings,
        [example(name, systems) for name in evaluation.spread(EXAMPLES)],
        worst=[example(row.name, evaluation.systems[-1:]) for row in evaluation.worst_first()[:WORST]],
        title="Restored speech",
        about={"Command": "miipher2 evaluate"},
    )


def _systems(words: list[str]) -> dict[str, Path]:
    """Return the other systems by name."""
    found: dict[str, Path] = {}
    for word in words:
        name, separator, path = word.partition("=")
        if not (separator and name and path):
            raise ValueError(f"--system {word}: should be NAME=PATH")
        if name in found or name in ("clean", "degraded", "restored", BASELINE):
            raise ValueError(f"--system {word}: there is a system '{name}' already; give it another name")
        found[name] = Path(path)
    return found
