"""Artifacts: files that outlive the task or session that made them."""
