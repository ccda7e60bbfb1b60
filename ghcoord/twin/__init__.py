"""A twin of GitHub for tests: an HTTP server on loopback over a real repository.

``from ghcoord.twin.server import Twin``. Nothing else of ghcoord imports it; it needs the extra ``twin``.
"""
