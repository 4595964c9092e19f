"""Sound: files, levels, codecs, resampling and spectrograms. The only package that touches sound files.

decode        decoders of any sound file, from its first sample to its last
container     files that are cut off, joined, or longer than their header counts
io            sound files read and written whole or in parts, as one channel
stream        sound files block by block, for recordings of any length
files         the sound files below a folder
resample      resampling, whole and block by block
levels        where a wave holds speech, and its level there
codecs        lossy codecs in memory
spectrogram   the one short-time Fourier transform and mel filterbank
"""
