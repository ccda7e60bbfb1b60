"""Workers: registration, ticks, recovery, placement."""
