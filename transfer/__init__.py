"""Measures how well a checkpoint transfers. Reads a checkpoint; knows nothing of how it was trained."""
