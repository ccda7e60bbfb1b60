"""Locks: exclusive, shared, fair, counted, and over patterns of paths; leader election."""
