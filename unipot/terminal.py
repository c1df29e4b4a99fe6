"""Texts of others, a card's or a file's, as a terminal may show them."""

from __future__ import annotations


def printable(value: object) -> str:
    """`value` in words, without characters that steer a terminal or cannot be printed: these are shown as �."""
    return "".join(c if c.isprintable() or c == "\n" else " " if c.isspace() else "�" for c in str(value))
