"""Bytes in units that people read, decimal ones as on disks: 31.0 MB."""

_UNITS = ("B", "kB", "MB", "GB", "TB")


def byte_unit(size: float) -> tuple[int, str]:
    """The largest unit of which a size holds at least one: its bytes and its name.

    >>> byte_unit(31_000_000)
    (1000000, 'MB')
    """
    power = 0
    while power < len(_UNITS) - 1 and size >= 1000 ** (power + 1):
        power += 1
    return 1000**power, _UNITS[power]


def human_bytes(size: float) -> str:
    """A size with one decimal, whole bytes without.

    >>> [human_bytes(size) for size in (0, 999, 31_000_000, 124_123_456)]
    ['0 B', '999 B', '31.0 MB', '124.1 MB']
    """
    # 999,950 would be rounded to 1000.0 kB.
    factor, unit = byte_unit(size if size < 1000 else size * 1.00005)
    return f"{size:.0f} B" if factor == 1 else f"{size / factor:.1f} {unit}"
