"""Character and word errors of the words that are recognised, against a transcript or the clean recording's words."""

import unicodedata
from collections.abc import Mapping
from concurrent.futures import Future

from miipher2.evaluation.metrics.asr import language_code
from miipher2.evaluation.metrics.signals import Signal, SignalPair, SkippedMetric

# Written without spaces between words, so that there are no words to count.
UNSPACED = ("bo", "ja", "km", "lo", "my", "th", "yue", "zh")
APOSTROPHES = "'’ʼ"


def word_errors(pair: SignalPair) -> dict[str, float]:
    """Return the character and the word error rate; no word error where a language has no spaces.

    At most 1, all wrong: where a recogniser repeats itself without end, one recording would count for many.

    Raises:
        SkippedMetric: the language is not recognised, or there is nothing to compare with.
    """
    import jiwer

    measured = pair.measured
    if reason := measured.asr.refusal(measured.language):
        raise SkippedMetric(reason)
    reference = normalise(measured.transcript or recognise(pair.reference).result())
    if not reference:
        raise SkippedMetric(f"no word {'in the transcript' if measured.transcript else 'recognised in the clean one'}")
    heard = normalise(recognise(measured).result())
    errors = {"character_error": min(1.0, float(jiwer.cer(reference.replace(" ", ""), heard.replace(" ", ""))))}
    if language_code(measured.language) not in UNSPACED:
        errors["word_error"] = min(1.0, float(jiwer.wer(reference, heard)))
    return errors


def start(signal: Signal) -> None:
    """Start to recognise the words of a recording, beside other work."""
    if not signal.asr.refusal(signal.language):
        recognise(signal)


def recognise(signal: Signal) -> Future[str]:
    """Return the words of a recording, recognised once."""
    if "words" not in signal.cache:
        signal.cache["words"] = signal.asr.transcribe(signal.at_16k, signal.language)
    future: Future[str] = signal.cache["words"]
    return future


def describe(signals: Mapping[str, Signal]) -> dict[str, str]:
    """Return what was recognised in the recordings of an utterance, as columns of a table; nothing where nothing was.

    `words/<name>` for each recording, the transcript as `words_transcript`, and `words_language`.
    """
    heard = {f"words/{name}": recognise(each).result() for name, each in signals.items() if "words" in each.cache}
    if not heard:
        return {}
    first = next(iter(signals.values()))
    return {"words_language": first.language, "words_transcript": first.transcript, **heard}


def normalise(text: str) -> str:
    """Return the letters, marks and digits of a text in one case and width, with single spaces between words.

    Apostrophes and invisible characters join what is beside them; any other sign separates words.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = ("" if _joins(each) else each if unicodedata.category(each)[0] in "LMN" else " " for each in folded)
    return " ".join("".join(kept).split())


def _joins(character: str) -> bool:
    return character in APOSTROPHES or unicodedata.category(character) == "Cf"
