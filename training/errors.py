"""Why a training run cannot begin or go on."""


class TrainingError(Exception):
    """The message is one line: what was wrong, what is allowed, what to do next."""
