"""Evaluation of restored speech: metrics, a summary with intervals, a page to look at and listen to.

stage               the evaluate stage: held-out pairs, systems, outputs
evaluate            metrics utterance by utterance
progress            a bar over utterances
summary             means with bootstrap intervals, in all and by label; the gate; CSV and JSON files
report              the HTML page, with report.html.jinja
markdown            the table of means, for pages and model cards
spectrogram_image   spectrograms as images
metrics             the metrics, one file for each family
"""
