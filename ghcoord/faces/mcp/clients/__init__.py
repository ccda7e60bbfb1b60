"""The ways to a worker: the pool in this process, and the workers of the hub."""
