"""Degradations of clean speech: drawn first with all randomness, then applied without any.

chain       draws and applies a whole degradation
transform   the base class of one transform, and the draws of its values
additive    noise, babble, coloured noise, hum
filters     rooms and band limits
channel     clipping, codecs, packet loss, level, DC offset
"""
