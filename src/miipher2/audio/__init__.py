"""Sound: files, levels, codecs, resampling and spectrograms. The only package that touches sound files.

io            sound files read and written whole or in parts, also from within a tar
stream        sound files block by block, for recordings of any length
files         the sound files below a folder
resample      resampling, whole and block by block
levels        where a wave holds speech, and its level there
codecs        lossy codecs in memory
spectrogram   the one short-time Fourier transform and mel filterbank
"""
