"""Networks: a frozen speech encoder with adapters, and vocoders. They take plain values and know no configuration.

encoder     from 16 kHz waves to features
vocoder     from features to waves
device      what a name means
precision   float32, TF32 or bfloat16
pretrained  weights in a folder or on the hub
"""
