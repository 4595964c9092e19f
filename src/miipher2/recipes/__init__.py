"""What the stages train: the adapter, the vocoder and the mini encoder, each as a recipe for the one loop."""
