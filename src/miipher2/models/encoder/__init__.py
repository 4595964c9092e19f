"""The frozen speech encoder: from 16 kHz waves to features at 50 frames per second.

encoder               a front end and the first layers of a pretrained model, with adapters
from_pretrained       loads one from a folder or the Hugging Face hub
conformer             the layers of w2v-BERT 2.0
transformers_models   the layers of all other models
conv_frontend         the convolutions of HuBERT, WavLM and wav2vec 2.0
logmel_frontend       the log-mel input of w2v-BERT 2.0
adapter               what is trained beside a frozen feed-forward block
feature_norm          standardises features
mini                  the small encoder of the embedded default
"""
