"""What commands say on standard error beside their results."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ffcore.errors import ImageError
    from ffserve.account import Account


def say(text: str) -> None:
    """Prints a line."""
    print(f"ffserve: {text}", file=sys.stderr)


def note(text: str) -> None:
    """Prints what is no error, and yet not what one might think."""
    say(f"note: {text}")


def failed(error: ImageError, *, debug: bool) -> None:
    """Prints an image's error, with its traceback where that is asked for."""
    if debug:
        traceback.print_exception(error)
    say(f"error: {error}")


def of_images(account: Account, invert: str) -> None:
    """Says what became of the images of a command; not that they were inverted where that was asked for."""
    for text in account.notes(quiet=("inverted",) if invert == "yes" else ()):
        note(text)
