"""The command ``noisy-kd`` and its verbs."""
