"""Speech recognition by pocketsphinx: this file is the program that recognises one recording, in a process of its own.

python pocketsphinx_process.py < samples     16-bit little-endian, one channel, 16 kHz; prints the words

Imports nothing of this package, so that a process starts at once.
"""

import subprocess
import sys

SAMPLE_RATE_HZ = 16_000


def transcribe(samples: bytes) -> str:
    """Return the words of a recording.

    Raises:
        RuntimeError: the recognition fails.
    """
    # -P: this file's folder is not on the path of imports.
    process = subprocess.run([sys.executable, "-P", __file__], input=samples, capture_output=True, check=False)
    if process.returncode != 0:
        reason = process.stderr.decode().strip()[-500:]
        raise RuntimeError(f"speech recognition ended with {process.returncode}: {reason}")
    return process.stdout.decode()


def main() -> None:
    """Print the words; one decoder for each recording, since a decoder adapts to what it has processed."""
    import pocketsphinx

    decoder = pocketsphinx.Decoder(samprate=SAMPLE_RATE_HZ, loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw(sys.stdin.buffer.read(), full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    sys.stdout.write(hypothesis.hypstr if hypothesis else "")


if __name__ == "__main__":
    main()
