"""Data: from a manifest of sound files to batches that are a function of (seed, step).

dataloader    the batches of a training stage
dataset       examples: a crop of clean speech and its degraded form
sampler       which utterance, step and slot an example has
crop_reader   crops of utterances at both sample rates
pools         the noises, room responses and voices that degradations read
degradations  degradations of clean speech
eval_pairs    whole held-out utterances with their degraded form
prepared      what the stage prepare_data wrote
manifest      one row per utterance
transcripts   the text beside a sound file
lru_cache     a cache limited in bytes
"""
