"""How good a network is."""

from noisy_kd.evaluation.metrics import count_errors, predict_logits

__all__ = ["count_errors", "predict_logits"]
