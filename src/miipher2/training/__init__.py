"""Training as steps, checkpoints and state; it does not know what speech is."""
