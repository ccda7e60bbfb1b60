"""Memory: values by key, their index, their history."""
