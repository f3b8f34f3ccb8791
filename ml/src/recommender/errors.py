"""Errors for people: each says what is wrong, where, and how to mend it."""


class RecommenderError(Exception):
    """A failure explained without a traceback; the command line exits with `exit_code`."""

    exit_code = 1


class InputError(RecommenderError):
    """Invalid data, parameters or arguments."""

    exit_code = 2


class Refusal(RecommenderError):
    """A version that fails the promotion gate."""

    exit_code = 3
