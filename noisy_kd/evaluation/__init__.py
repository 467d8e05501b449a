"""How good a finished student is beyond its clean error."""

KINDS = ("clean", "noise", "corruptions", "fgsm", "pgd", "calibration", "ood")
