"""What a weak recogniser hears in a recording: in processes of its own, beside what else is measured.

python recogniser.py < samples     16-bit little-endian, one channel, 16 kHz; prints the words

Knows nothing of this package: a process should start at once.
"""

import os
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

RATE_HZ = 16_000


def start(samples: bytes) -> Future[str]:
    """Return what will hold the words; as many are heard at a time as there are cores.

    Its result raises RuntimeError where the recogniser fails.
    """
    return _pool().submit(_heard, samples)


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="recogniser")


def _heard(samples: bytes) -> str:
    # -P: the folder of this file is no place to import from.
    done = subprocess.run([sys.executable, "-P", __file__], input=samples, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the recogniser ended with {done.returncode}: {done.stderr.decode().strip()[-500:]}")
    return done.stdout.decode()


def main() -> None:
    """Print the words; a decoder for each recording, since one adapts to what it heard before."""
    import pocketsphinx

    decoder = pocketsphinx.CropReader(samprate=RATE_HZ, loglevel="FATAL")
    decoder.start_utt()
    decoder.process_raw(sys.stdin.buffer.read(), full_utt=True)
    decoder.end_utt()
    found = decoder.hyp()
    sys.stdout.write(found.hypstr if found else "")


if __name__ == "__main__":
    main()
