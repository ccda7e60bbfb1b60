"""Who did what: events, history, blame, tool calls."""
