"""Recorded pairs: clean and degraded recordings of the same names, aligned, or refused with the reason."""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from miipher2.audio.io import read_audio
from miipher2.audio.resample import resample
from miipher2.config.fields import in_one_line
from miipher2.config.schema_data import HOP_SAMPLES, SAMPLE_RATE_HZ, PairsConfig
from miipher2.data.manifest import Utterance, relative_path
from miipher2.preparation.alignment import Alignment, align
from miipher2.preparation.corpora import Corpus, CorpusIndex, check_bad_files, scan_corpus, split_corpus, utterances
from miipher2.preparation.scan import Scan, ScannedFile

# Delays up to so many times the limit are looked for, so that one beyond it is told from another utterance.
REACH = 4


@dataclass(frozen=True)
class Refusal:
    """A pair that is left out: a reason to count by, and a line with its name, what it is and what it should be."""

    reason: str
    line: str


@dataclass(frozen=True)
class RecordedPair:
    """Two recordings of one utterance, and their alignment."""

    clean: ScannedFile
    degraded: ScannedFile
    alignment: Alignment

    def complete(self, row: Utterance, root: Path) -> Utterance:
        """Return the clean file's row of the manifest as that of the pair: the part that both have."""
        late_seconds = self.alignment.delay_samples / SAMPLE_RATE_HZ
        clean, degraded = self.clean.info, self.degraded.info
        start = round(max(0.0, -late_seconds) * clean.sample_rate_hz)
        degraded_start = round(max(0.0, late_seconds) * degraded.sample_rate_hz)
        # Whole samples of the clean side that end no later than either recording.
        shared = (degraded.samples - degraded_start) * clean.sample_rate_hz // degraded.sample_rate_hz
        return replace(
            row,
            seconds=min(clean.samples - start, shared) / clean.sample_rate_hz,
            start_samples=start,
            degraded_path=relative_path(Path(str(self.degraded.sound.source)), root),
            degraded_start_samples=degraded_start,
            degraded_sample_rate_hz=degraded.sample_rate_hz,
            degraded_sha256=self.degraded.sha256,
        )


@dataclass
class PairIndex(CorpusIndex):
    """The pairs as rows of a manifest, how they are aligned, and those that were refused, by name."""

    alignments: list[Alignment] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)


def index_pairs(
    name: str,
    corpus: Corpus,
    degraded_folder: Path,
    config: PairsConfig,
    root: Path,
    *,
    held_out: Path | None,
    as_published: bool,
    by_speaker_from: int,
    on_bad_file: str,
) -> PairIndex:
    """Scan both folders, pair the files by relative name without suffix, align each pair, and split them.

    Args:
        name: of the corpus.
        corpus: the clean side, which gives speaker, language, transcript and published split.

    Raises:
        FileNotFoundError: a folder or the list of held-out files is missing.
        ValueError: a folder has no usable file, or bad files with `error`; a split stays empty; no pair can be used.
    """
    clean = scan_corpus(corpus, "clean speech")
    degraded = scan_corpus(Corpus(degraded_folder), "degraded recordings of the same names")
    check_bad_files([clean, degraded], on_bad_file)
    index = PairIndex(scans={name: clean, "degraded": degraded})
    pairs: dict[tuple[str, str], RecordedPair] = {}
    for key, one, other in _match(clean, degraded, index.refusals):
        found = _align(key, one, other, config)
        if isinstance(found, Refusal):
            index.refusals.append(found)
        elif (first := pairs.setdefault((one.sha256, other.sha256), found)) is not found:
            name_of_file, name_of_first = (
                relative_path(clean.folder / each.sound.name, root) for each in (one, first.clean)
            )
            index.duplicates.append((name_of_file, name_of_first))
    index.refusals.sort(key=lambda refusal: refusal.line)
    if not pairs:
        raise ValueError(f"no pair of {clean.folder} and {degraded.folder} can be used: {describe(index.refusals)}")
    files = [pair.clean for pair in pairs.values()]
    splits = split_corpus(
        name, clean, files, held_out=held_out, as_published=as_published, by_speaker_from=by_speaker_from
    )
    rows = utterances(files, splits, root, name)
    index.rows = [pair.complete(row, root) for pair, row in zip(pairs.values(), rows, strict=True)]
    index.alignments = [pair.alignment for pair in pairs.values()]
    return index


def count_reasons(refusals: Collection[Refusal]) -> dict[str, int]:
    """Return how many pairs were refused for each reason."""
    return dict(sorted(Counter(refusal.reason for refusal in refusals).items()))


def describe(refusals: Collection[Refusal]) -> str:
    """Return the number of refused pairs by reason, and the lines of the first ten."""
    counts = ", ".join(f"{count} {reason}" for reason, count in count_reasons(refusals).items())
    lines = [refusal.line for refusal in list(refusals)[:10]]
    return "\n  ".join([f"{len(refusals)} refused ({counts})", *lines])


def _match(clean: Scan, degraded: Scan, refusals: list[Refusal]) -> Iterator[tuple[str, ScannedFile, ScannedFile]]:
    """Yield each name that both folders have once, with its files; what has no single partner is refused."""
    sides = {"clean": clean, "degraded": degraded}
    named: dict[str, dict[str, list[ScannedFile]]] = {}
    for side, scanned in sides.items():
        for file in scanned.files:
            key = PurePosixPath(file.sound.name).with_suffix("").as_posix()
            named.setdefault(key, {each: [] for each in sides})[side].append(file)
    for key, files in named.items():
        if wrong := next((side for side in sides if len(files[side]) != 1), None):
            names = ", ".join(in_one_line(file.sound.name) for file in files[wrong])
            state = (
                f"{len(files[wrong])} {wrong} recordings ({names})"
                if names
                else f"no {wrong} recording that can be read"
            )
            reason = "ambiguous" if names else "without a partner"
            refusals.append(Refusal(reason, f"{in_one_line(key)}: {state}; should be one in {sides[wrong].folder}"))
        else:
            yield key, files["clean"][0], files["degraded"][0]


def _align(key: str, clean: ScannedFile, degraded: ScannedFile, config: PairsConfig) -> RecordedPair | Refusal:
    """Return a pair, or why it cannot be used."""
    limit = round(config.max_delay_seconds * SAMPLE_RATE_HZ)
    one, other = (resample(*read_audio(file.sound.source), SAMPLE_RATE_HZ) for file in (clean, degraded))
    found = align(one, other, REACH * limit, config.min_correlation)
    if abs(found.correlation) < config.min_correlation:
        reason = "unlike"
        state = (
            f"correlation {abs(found.correlation):.3f} within {REACH * config.max_delay_seconds:g} s; should be at "
            f"least {config.min_correlation:g} (data.pairs.min_correlation) and of the same utterance"
        )
    elif abs(found.drift_samples) > HOP_SAMPLES:
        reason = "drifting"
        state = (
            f"the end is {_seconds(found.drift_samples)} than the beginning; should be within "
            f"{HOP_SAMPLES / SAMPLE_RATE_HZ:g} s, recorded by one clock and without gaps"
        )
    elif abs(found.delay_samples) > limit:
        reason = "too late or early"
        state = (
            f"the degraded recording is {_seconds(found.delay_samples)}; should be within "
            f"{config.max_delay_seconds:g} s (data.pairs.max_delay_seconds)"
        )
    else:
        return RecordedPair(clean, degraded, found)
    return Refusal(reason, f"{in_one_line(key)}: {state}")


def _seconds(samples: int) -> str:
    """Return a delay as `0.0213 s later`."""
    return f"{abs(samples) / SAMPLE_RATE_HZ:.4f} s {'later' if samples > 0 else 'earlier'}"
