"""Predictions and ground truth in, figures out. numpy only: works on files alone and imports no torch."""
