"""A sweep: its grid is checked, grouped into stacks, and trained on the devices there are."""
