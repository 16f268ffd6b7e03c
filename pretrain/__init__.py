"""Pretraining without labels: views, objectives, loop. Writes a checkpoint; knows nothing of how it is evaluated."""
