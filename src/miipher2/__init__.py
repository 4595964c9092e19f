"""Miipher-2 speech restoration: three training stages that resume bit for bit, and restoring with the result.

config       configuration as checked dataclasses; which stages there are
audio        sound files, levels, codecs, resampling, spectrograms
data         from a manifest to batches that are a function of (seed, step)
preparation  from a folder of speech to a manifest, noises and rooms
models       the frozen encoder with its adapters, and the vocoders
training     the loop, checkpoints, resume; knows no speech
recipes      what each training stage computes
tracking     progress bar, W&B, audio samples; cannot alter a result
importing    weights of other projects as published folders
inference    restoring recordings of any length, in folders, on clusters
evaluation   metrics, intervals, the report
cli          the miipher2 command
compose      `python -m miipher2.compose`, an older name of `miipher2 params`
rng          all randomness: stream(seed, *name), and the global generators
atomic_io    files and folders written whole or not at all; digests, locks
"""

import os

# PyTorch's threads spin while they wait: beside a data worker, or any other busy process, a step of 0.12 s took 2.9 s.
# Read by OpenMP when torch is first imported, so it has to stand here; it changes no result.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
