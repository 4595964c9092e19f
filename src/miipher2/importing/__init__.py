"""Weights of other projects, imported as published folders. Nothing in a file is run, but by `check`.

importer       what is imported from which file: tells the kind from the keys
unpickle       pickles to plain values, with inert stand-ins for every class
torch_file     files of torch.save and safetensors: plain values and tensors
torchscript    frozen programs: their constants, and the order in which they use them
source         tensors of a file, each to be used or named; the record of an import
encoder        the encoder folder, with a file's own weights
adapter        checkpoints of the original Miipher-2 code
vocoder        what every imported vocoder is, and known files that cannot be imported
hifigan        HiFi-GAN on features of an encoder, with its discriminators
conformer      the conformer layers before it in the original Miipher-2 code's release
vocos          Vocos on features of an encoder
sidon          Sidon's encoder with LoRA merged, and its decoder
sidon_program  Sidon's release: programs without names, to the names of its checkpoints
check          compares with a program's own output; the only module that runs one
output         published folders, written whole or not at all
"""
