"""The parts of the interoperability suite: see ../README.md."""


class Missing(Exception):
    """A program that the machine lacks: what needs it is skipped, and says so."""
