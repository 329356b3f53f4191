"""Text that can be sent: Python's may hold surrogates, from JSON escapes and odd file names."""

from __future__ import annotations


def is_unicode(text: str) -> bool:
    """Whether a text has a UTF-8 form."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_unicode(text: str) -> str:
    """Return a text with all that has no UTF-8 form written as escapes."""
    return text.encode(errors="backslashreplace").decode()
