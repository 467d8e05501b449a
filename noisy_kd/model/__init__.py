"""Networks in the paper's notation, and what they cost."""
