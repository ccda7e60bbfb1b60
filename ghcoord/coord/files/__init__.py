"""Content that is too large for records: by its SHA-256, in a space of its own."""
