"""Users' mistakes in an evaluation; each text is one line for the user."""


class EvaluationError(Exception):
    """Something in the files or options that cannot be used; the message says what and where."""


class OtherRunError(EvaluationError):
    """A folder holds the answers to other questions, or of another model or decoding."""
