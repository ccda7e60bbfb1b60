"""Records and their transitions: pure data, pure functions, no I/O. Knows nothing of Git."""
