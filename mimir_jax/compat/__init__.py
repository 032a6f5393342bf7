"""Other projects' configurations, data and results."""
