"""Sessions as the hub has them: records, placement, calls, checkpoints."""
