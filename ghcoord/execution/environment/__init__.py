"""Python environments of sessions, and the packages in them."""
