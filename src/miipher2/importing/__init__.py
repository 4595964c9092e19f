"""Weights of other projects, imported as published folders. Nothing in a file is ever run.

unpickle     pickles to plain values, with inert stand-ins for every class
torch_file   files of torch.save and safetensors: plain values and tensors
"""
