"""A twin of GitHub for tests: an HTTP server on loopback over a real repository."""
