"""Speech recognition: Whisper, from a folder, the hub or the wheels of whisper-base; pocketsphinx without a model.

Recordings are recognised in threads, as many at a time as there are cores, beside other measurements. The words of a
recording depend neither on their number nor on other recordings.
"""

import os
import re
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from miipher2.atomic_io import sha256_of
from miipher2.config.paths import ROOT, folder_or_hub_name
from miipher2.evaluation.metrics import pocketsphinx_process, whisper_base

UNKNOWN = ("", "unknown")
# Whisper's codes where a corpus has another; of "cmn_hans_cn" the first part counts.
CODES = {"cmn": "zh", "fil": "tl", "iw": "he", "jv": "jw", "nb": "no"}
BEAM = 5
FILES = ("config.json", "model.bin", "tokenizer.json")

Wave = Float32[np.ndarray, "time_16k"]


class PocketSphinx:
    """The recogniser without a model: weak, and English only."""

    name = "pocketsphinx"

    @property
    def description(self) -> str:
        """Return its version."""
        return f"pocketsphinx {version('pocketsphinx')}, weak and English only"

    def refusal(self, language: str) -> str:
        """Return why it does not recognise a language, or ""."""
        if language_code(language) == "en":
            return ""
        return f"pocketsphinx recognises English only; the language is '{language or 'unknown'}', which needs a model"

    def detect(self, wave: Wave) -> str:
        """Return "": it cannot tell."""
        return ""

    def transcribe(self, wave: Wave, language: str) -> Future[str]:
        """Start a process that recognises the words; the future raises RuntimeError where it fails."""
        return _threads().submit(pocketsphinx_process.transcribe, (wave * 32767).astype("<i2").tobytes())


POCKETSPHINX = PocketSphinx()


class Whisper:
    """Whisper on the CPU, one thread for each recording, by beam search without chance.

    Args:
        folder: in CTranslate2 form.
        name: by which it was requested.
        compute_type: "float32" or "int8".

    Raises:
        ValueError: the folder holds no such model.
    """

    def __init__(self, folder: Path, name: str, compute_type: str) -> None:
        from faster_whisper import WhisperModel

        if missing := [file for file in FILES if not (folder / file).is_file()]:
            raise ValueError(f"{folder}: has no {missing[0]}; should hold a Whisper model in CTranslate2 form")
        try:
            self._model = WhisperModel(
                str(folder), device="cpu", compute_type=compute_type, cpu_threads=1, num_workers=os.cpu_count() or 1
            )
            self._languages = frozenset(self._model.supported_languages)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{folder}: should hold a Whisper model in CTranslate2 form ({reason})") from error
        self.name, self._compute_type, self._sha256 = name, compute_type, sha256_of(folder / "model.bin")

    @property
    def description(self) -> str:
        """Return versions, weights and settings."""
        return (
            f"{self.name} (model.bin has the sha256 {self._sha256[:16]}) by faster-whisper {version('faster-whisper')} "
            f"and CTranslate2 {version('ctranslate2')} on the CPU: {self._compute_type}, a beam of {BEAM}, "
            "temperature 0, no text of earlier windows, one thread a recording"
        )

    def refusal(self, language: str) -> str:
        """Return why it does not recognise a language, or ""; one that is not known is detected."""
        if language in UNKNOWN or language_code(language) in self._languages:
            return ""
        return f"{self.name} does not know the language '{language}'; it knows {', '.join(sorted(self._languages))}"

    def detect(self, wave: Wave) -> str:
        """Return the most probable language of a recording's first 30 seconds."""
        return str(self._model.detect_language(wave)[0]) if len(self._languages) > 1 else min(self._languages)

    def transcribe(self, wave: Wave, language: str) -> Future[str]:
        """Start to recognise the words."""
        return _threads().submit(self._run, wave, language_code(language))

    def _run(self, wave: Wave, language: str) -> str:
        segments, _ = self._model.transcribe(
            wave, language=language, beam_size=BEAM, temperature=0.0, condition_on_previous_text=False
        )
        return "".join(segment.text for segment in segments).strip()


Asr = PocketSphinx | Whisper


def load_asr(model: str | None, compute_type: str = "float32", root: Path = ROOT) -> Asr:
    """Return the recogniser that `evaluate.asr` or `--asr` describes.

    Args:
        model: a folder in CTranslate2 form, "whisper-base" for the wheels of that name, a name on the hub (such as
            "small" or "Systran/faster-whisper-small"), or None for pocketsphinx.
        root: where a relative folder starts.

    Raises:
        ValueError: faster-whisper is not installed, or there is no such model.
        OSError: the hub has no such model or cannot be reached, or the cache cannot be written.
    """
    if model is None:
        return POCKETSPHINX
    if missing := [library for library in ("faster_whisper", "jiwer") if find_spec(library) is None]:
        raise ValueError(f"asr.model={model}: {missing[0].replace('_', '-')} is not installed; uv sync --extra asr")
    folder = folder_or_hub_name(model, root)
    if model == whisper_base.NAME and not isinstance(folder, Path):
        folder = whisper_base.join_wheels()
    return Whisper(folder if isinstance(folder, Path) else _download(folder), model, compute_type)


def language_code(label: str) -> str:
    """Return Whisper's code of a language: "en" for "en_us", "zh" for "cmn_hans_cn"."""
    code = re.split(r"[-_]", label.strip().lower())[0]
    return CODES.get(code, code)


def _download(name: str) -> Path:
    """Return the folder of the hub's cache with a model, fetched where it is not there yet."""
    from faster_whisper.utils import available_models, download_model

    should = (
        "should be whisper-base, a folder in CTranslate2 form, one of "
        f"{', '.join(available_models())}, or the name of such a model on the Hugging Face hub"
    )
    if "/" not in name and name not in available_models():
        raise ValueError(f"asr.model={name}: no such folder or model; {should}")
    try:
        return Path(download_model(name))
    except (ValueError, OSError) as error:
        raise OSError(f"asr.model={name}: the hub has no such model, or cannot be reached; {should}") from error


@lru_cache(maxsize=1)
def _threads() -> Any:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="asr")
