"""Care for a hub: settings, migration, adoption of edits by hand, repair, gc."""
