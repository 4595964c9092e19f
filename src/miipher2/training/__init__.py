"""Training as steps, checkpoints and state. Knows recipes by their protocol and not what speech is.

stage           one training stage, from its configuration to published/
loop            the one loop: owns time
recipe          what a stage adds to the loop (protocol)
run             one lineage of checkpoints: started, restored, saved
checkpoint      what a checkpoint holds; written whole, read without pickle
summary         the JSON beside a checkpoint, without torch
run_dir         a run's folder: locked, set aside, rotated, published
config_diff     what a resume changes
history         history.csv, and chain.jsonl, the chain of checkpoints
optimizer       AdamW for one network; stops at a loss or gradient that is not finite
schedule        the learning rate as a function of the step
ema             exponential moving average of weights
losses          feature, mel, adversarial and feature matching losses
distributed     the processes that train one run together
signals         SIGTERM and SIGINT
environment     device, threads, determinism, versions
"""
