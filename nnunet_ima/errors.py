"""Mistakes of a user: one sentence that names the argument, its value and the remedy, never a traceback."""


class UserError(ValueError):
    """Raised for input that only the user can put right; commands print it and exit with 1."""
