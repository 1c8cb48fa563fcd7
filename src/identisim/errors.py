"""The one error that means "the caller can mend this": the command line turns it into one line and exit code 2."""


class InputError(ValueError):
    """What was given cannot be used; the message says what came, what was expected and what to do."""
