"""Why data cannot be written."""


class PhantomError(Exception):
    """The message is one line: what was wrong, what is allowed, what to do next."""
