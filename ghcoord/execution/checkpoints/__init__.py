"""Checkpoints of sessions: saved on the worker, published in the hub, restored anywhere."""
