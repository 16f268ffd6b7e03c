"""The checkpoint format, and everything that turns foreign files into this project's own types."""

__version__ = "0.1.0"
