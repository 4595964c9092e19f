"""The stage prepare_data: from corpora to manifests, noises and rooms. No training stage imports it.

prepare      the stage and its report
corpora      the utterances of all corpora: scanned, without duplicates, split
pairs        recorded pairs: matched by name, aligned, or refused
alignment    the delay between two recordings of one utterance
layouts      published layouts: speaker, language and split by path
transcripts  transcripts of published corpora and of folders
tar_shards   tar shards: their members by byte offset
scan         decodes and measures every file once
splits       train, valid and test by digest
noise        generated noises
rooms        simulated room responses, and the user's own
"""
