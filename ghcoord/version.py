"""The version: the only place it is written, also for the build."""

__version__ = "0.1.0"
