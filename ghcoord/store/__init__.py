"""Storage: one port, its drivers, the wrappers, and ``transact``. Knows nothing of tasks or locks."""
