"""Restoration: a recording of any length and rate through encoder, adapters and vocoder. Loads no training code.

restorer        Restorer: a wave in, a wave out
options         the six options of a restoration
streaming       a recording as encoder windows and vocoder chunks
batching        windows and chunks of many recordings through the networks
weights         the networks, read from published folders
bundle          the networks as one folder
batch_job       many recordings at once
files           which files are restored, and where they go
journal         the record of a folder: finished files, weights and options
ray_job         a folder job on a Ray cluster
onnx_export     the networks as ONNX graphs
hub             a bundle on the Hugging Face hub, with model_card.md.jinja
licences        of imported weights and encoders, as far as they are known
"""
