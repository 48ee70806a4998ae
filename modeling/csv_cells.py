"""A cell of a CSV file, for a spreadsheet that must run nothing of it.

What does *not* live here: what is written into which file.
"""

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a cell begins with that spreadsheets take for a formula, or leave out before one
(OWASP, "CSV Injection")."""


def inert(value: object) -> object:
    """Return a cell; a text that a spreadsheet would compute gets an apostrophe before it."""
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return f"'{value}"
    return value
