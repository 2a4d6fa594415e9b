"""Predictions and ground truth in, metrics out. numpy only: works on files alone and imports no torch."""
