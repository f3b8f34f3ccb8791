"""Errors that are answers: each says what is wrong, where, and how to mend it."""


class RecommenderError(Exception):
    """A failure that needs no traceback to be understood; the command line exits with `exit_code`."""

    exit_code = 1


class InputError(RecommenderError):
    """Data, parameters or arguments that cannot be used as they are."""

    exit_code = 2


class Refusal(RecommenderError):
    """A version that does not pass the gate of a promotion."""

    exit_code = 3
