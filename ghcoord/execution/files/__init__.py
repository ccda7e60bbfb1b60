"""Files of a workspace that belongs to a stranger: reached without ever leaving it."""
