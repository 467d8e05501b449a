"""The stages of a run: teacher, logits, student."""
