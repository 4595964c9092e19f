"""What the stages train, each as a recipe for the one loop.

adapter             stage 1
vocoder             stages 2 and 3
masked_prediction   the mini encoder
components          what recipes are built from
init_from           the adapters that a stage starts from
"""
