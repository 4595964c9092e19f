"""Metrics of speech: each a function of arrays; libraries are imported when a metric is measured."""
