"""The transcripts of published corpora, where each keeps them, and of folders of one's own."""

import csv
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from miipher2.data.transcripts import read_beside, read_text

COLUMNS = ("transcript", "transcription", "text", "sentence")  # of a table or a sample's JSON; the first that has text
METADATA = "metadata.csv"


class TranscriptReader:
    """Returns transcripts of the files of one corpus, and reads each table once.

    Args:
        folder: of the corpus.
        layout: one of `CORPUS_LAYOUTS`, but for "webdataset".

    Attributes:
        faults: how many texts and tables cannot be used, by reason; their utterances have no transcript.
    """

    def __init__(self, folder: Path, layout: str) -> None:
        self.faults: Counter[str] = Counter()
        self._folder, self._find = folder, getattr(self, f"_find_{layout}")
        self._tables: dict[Path, Mapping[str, str]] = {}

    def read(self, path: Path) -> str:
        """Return the transcript of a sound file, in one line; "" where there is none."""
        try:
            text: str = self._find(path)
        except (ValueError, OSError, csv.Error):
            self.faults["transcripts that are not words in UTF-8"] += 1
            return ""
        return " ".join(text.split())

    def _find_folder(self, path: Path) -> str:
        table = self._table(self._folder / METADATA, _metadata_rows)
        return read_beside(path) or table.get(path.relative_to(self._folder).as_posix(), "")

    def _find_libritts_r(self, path: Path) -> str:
        return _read_existing(path.with_suffix(".normalized.txt"))

    def _find_vctk(self, path: Path) -> str:
        name = re.sub(r"_mic[12]$", "", path.stem)
        return _read_existing(path.parents[2] / "txt" / path.parent.name / f"{name}.txt")

    def _find_jvs(self, path: Path) -> str:
        return self._table(path.parents[1] / "transcripts_utf8.txt", _jvs_rows).get(path.stem, "")

    def _find_fleurs_r(self, path: Path) -> str:
        folder = path.parents[2] if path.parents[1].name == "audio" else path.parents[1]
        return self._table(folder / f"{path.parent.name}.tsv", _fleurs_rows).get(path.name, "")

    def _table(self, path: Path, rows: Callable[[Path], Iterator[tuple[str, str]]]) -> Mapping[str, str]:
        if path not in self._tables:
            self._tables[path] = {}  # also where reading it fails, which counts once
            if path.is_file():
                self._tables[path] = dict(rows(path))
        return self._tables[path]


def transcript_of(fields: Mapping[str, Any]) -> str:
    """Return the first text in the fields of `COLUMNS`, in one line; "" where there is none."""
    texts = (fields.get(name) for name in COLUMNS)
    return next((" ".join(text.split()) for text in texts if isinstance(text, str) and text.strip()), "")


def _read_existing(path: Path) -> str:
    return read_text(path) if path.is_file() else ""


def _metadata_rows(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and transcript from a table with the columns `file_name` and one of `COLUMNS`."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file):
            yield row.get("file_name") or "", transcript_of(row)


def _jvs_rows(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and transcript from lines such as `VOICEACTRESS100_001:…`."""
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        name, _, text = line.partition(":")
        yield name.strip(), text


def _fleurs_rows(path: Path) -> Iterator[tuple[str, str]]:
    """Yield name and transcript from lines of a number, the file's name, the text as written, and more."""
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        _, name, text, *_ = [*line.split("\t"), "", ""]
        yield name, text
