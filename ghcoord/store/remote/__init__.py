"""The remote driver: a hub in any Git repository, through the git program."""
