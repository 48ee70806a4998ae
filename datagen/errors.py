"""Users' mistakes in making data; each text is one line for the user."""


class DataError(Exception):
    """Something in files or options that cannot be used: what was wrong, allowed, and to do."""
