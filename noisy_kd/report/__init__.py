"""Results as tables and plots beside the papers'; works without torch."""
