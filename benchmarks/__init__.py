"""How fast this project is, beside others, on the machine at hand; results as tables and JSON."""
