"""The project's exceptions."""


class InputError(ValueError):
    """A wrong setting or unusable input; its message is the one line that the user reads."""


class TrainingError(RuntimeError):
    """A training that failed; its message is the one line that the user reads."""
