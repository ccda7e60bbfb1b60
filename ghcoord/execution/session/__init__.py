"""The sessions that a worker has: their folders, how they are opened, what runs in them."""
