"""The one kind of error that is the user's to mend: a file, an option, a model that cannot be used as asked."""


class UserError(ValueError):
    """Something the user gave cannot be used; the message names the file, line or option and what to do.

    The command line shows the message alone, without a traceback.
    """
