"""The manifest of a folder of sound files, for the data tests."""

from pathlib import Path

from miipher2.data.manifest import Manifest
from miipher2.preparation.corpora import Corpus, scan_corpus, utterances
from miipher2.preparation.splits import split_files


def scan_folder(folder: Path, root: Path) -> Manifest:
    """Return the manifest of the sound files below a folder, split by rule."""
    files = scan_corpus(Corpus(folder), "speech").files
    return Manifest.from_utterances(utterances(files, split_files(files), root, "folder"))
