"""Metrics of speech: by name, each with the reason where it cannot be measured. Knows two recordings at a time.

registry        the metrics by name, and one measurement
signals         a recording, a pair of recordings, their alignment
spectral        log-mel, log-spectral distance, power of bands
libraries       metrics that a library computes
words           character and word errors of what is recognised
asr             speech recognition: Whisper or pocketsphinx
whisper_base    Whisper base from two wheels
pocketsphinx_process    pocketsphinx in a process of its own
feature_error   errors of the encoder's features
baseline        spectral subtraction, the system to beat
"""
