"""Starting workers elsewhere as the queue grows, and letting them go."""
