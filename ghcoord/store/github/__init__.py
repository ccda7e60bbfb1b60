"""The github driver: a hub in a repository on GitHub, through its API."""
