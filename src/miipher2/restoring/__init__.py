"""Restoring recordings of any length with published weights: waves, files, folders, many machines."""
