"""The one kind of error that a user of this package is meant to read."""


class CduError(Exception):
    """Bad input or a computation that cannot give an answer.

    The message is one clear sentence: the value that was met, what was expected, and what to do.
    Command-line programs print it without a traceback.

    Example:
        >>> from cdu.certification import trivial_bound
        >>> try:
        ...     trivial_bound(-1)
        ... except CduError as error:
        ...     print(error)
        radius = -1 is not a positive finite number
    """


class DamagedFileError(CduError):
    """A kept file cannot be read. It is no method's refusal: the user deletes the file and runs the same again."""
