"""Vocoders: from encoder features to a wave, and the discriminators that they are trained against.

generator          the base class: chunks, exported weights
registry           generators by name
hifigan            HiFi-GAN
conformer_hifigan  HiFi-GAN behind conformer layers, as in the original Miipher-2 code's release
vocos              Vocos
dac                the decoder of the Descript audio codec, as in Sidon
harmonic_vocos     Vocos with a harmonic source
pitch              the pitch that a harmonic source is trained on
discriminators     multi-period, multi-scale and multi-resolution
"""
