"""A finished student: export, predict, model card."""
