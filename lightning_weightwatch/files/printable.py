"""Words out of files in messages: whatever they hold, they print, and in one line."""


def printable(text: str) -> str:
    r"""A text in which no character moves the cursor, breaks the line or fails to print.

    >>> print(printable("a\nb\x1b[31m \u202e é"))
    a\nb\x1b[31m \u202e é
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


def quoted(text: str, longest: int = 80) -> str:
    """A name out of a file, in quotes, not longer than a message can bear.

    >>> print(quoted("net.0.weight"), quoted("x" * 200, longest=5))
    'net.0.weight' 'xxxxx…'
    """
    shown = printable(text[: longest + 1])
    return f"'{shown[:longest]}…'" if len(shown) > longest else f"'{shown}'"


def in_one_line(error: BaseException, longest: int = 140) -> str:
    r"""What an exception says, up to the end of its first line that says something.

    >>> print(in_one_line(RuntimeError(" no such\nthing.")), in_one_line(EOFError()))
    no such EOFError
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines or isinstance(error, KeyError):
        return " ".join([type(error).__name__, *lines[:1]])[:longest]
    first = printable(lines[0]).rstrip(".")
    return f"{first[:longest]}…" if len(first) > longest else first
