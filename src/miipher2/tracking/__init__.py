"""Showing a run while it trains. Nothing here can alter a result, so no DVC stage depends on it.

progress        progress bar, or plain lines where there is no terminal
wandb_run       the W&B run; the only file that imports wandb
samples         a few validation utterances as audio and pictures
"""
