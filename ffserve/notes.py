"""What commands say on standard error beside their results."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ffcore.errors import ImageError


def say(text: str) -> None:
    """Prints a line."""
    print(f"ffserve: {text}", file=sys.stderr)


def note(text: str) -> None:
    """Prints what is no error, and yet not what one might think."""
    say(f"note: {text}")


def reporter(debug: bool) -> Callable[[ImageError], None]:
    """Returns what prints an image's error, with its traceback where that is asked for."""

    def report(error: ImageError) -> None:
        if debug:
            traceback.print_exception(error)
        say(f"error: {error}")

    return report


def note_inverted(count: int, asked: str, names: Sequence[str] = ()) -> None:
    """Says how many images `auto` inverted, and the first of them by name."""
    if not count or asked != "auto":
        return
    more = f" and {count - len(names):,} more" if count > len(names) else ""
    named = f": {', '.join(map(repr, names))}{more}" if names else ""
    note(f"inverted {count:,} whose border is unlike the model's images (--invert no keeps them){named}")


def note_passed_over(counts: Mapping[str, int]) -> None:
    """Says how many files of a folder are pictures of a kind that is not read: suffix -> files."""
    if counts:
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(counts.items()))
        note(f"passed over {kinds}: not read, save them as PNG or JPEG")
