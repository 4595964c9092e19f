"""A folder of sound files as a manifest, for the data tests."""

from pathlib import Path

from miipher2.data.manifest import Manifest
from miipher2.preparation.corpora import Corpus, survey_corpus, utterances
from miipher2.preparation.splits import split_files


def scan(folder: Path, root: Path) -> Manifest:
    """Return the manifest of the sound files below a folder, split by rule."""
    files = survey_corpus(Corpus(folder)).found
    return Manifest.from_utterances(utterances(files, split_files(files), root, "folder"))
