"""Tasks and schedules as their submitters see them."""
