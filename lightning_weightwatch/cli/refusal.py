"""What a command refuses to do, as one line for the person who asked."""


class Refusal(Exception):
    """Wrong arguments, or a file that cannot be read or written: exit code 2, no traceback."""
