"""What became of the images of a command: read and answered, changed first, not read, left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ffcore.errors import ImageError
from ffcore.folders import Item
from ffcore.tally import Tally
from ffserve.drawing import BLANK, CLEARED, INVERTED, PLACED
from ffserve.reading import DIM
from ffserve.stream import Batch

Report = Callable[[ImageError], None]
# What is said of images, in words, with what a person can do about it.
WORDS = {
    INVERTED: "inverted (--invert no keeps them)",
    CLEARED: "ink taken off its ground (--invert no keeps it)",
    PLACED: "ink cut out and placed as in the model's own pictures (--place no leaves it)",
    BLANK: "blank: one colour all over, of which the answer says nothing",
    DIM: "nearly black: 16 bits of which few are used, as the file does not declare; save them with 8",
}


class Failed(NamedTuple):
    """An image that could not be read, by its name, and why."""

    file: str
    error: str


@dataclass(kw_only=True)
class Account:
    """What became of images.

    Args:
        report: called with each image that cannot be read, as it comes.
    """

    report: Report = lambda _: None
    did: Tally = field(default_factory=Tally)
    """What was done for images and is to be said of them: the keys of `WORDS`."""
    left_out: Tally = field(default_factory=Tally)
    """What a search leaves out."""
    failed: list[Failed] = field(default_factory=list)

    def take(self, batch: Batch) -> list[Item]:
        """Returns the items of a batch that were read, and accounts for all."""
        good = []
        for item, error, did in zip(batch.items, batch.errors, batch.did, strict=True):
            if error is None:
                good.append(item)
            else:
                self.report(error)
                self.failed.append(Failed(item.name, str(error)))
            for what in did:
                self.did.add(what, item.name)
        return good

    def state(self) -> dict[str, Any]:
        """Returns what became of images as JSON has it, for `include`; not what a search left out."""
        return {"did": [self.did.counts, self.did.names], "failed": self.failed}

    def include(self, state: Mapping[str, Any]) -> None:
        """Accounts for images of which another account returned its state."""
        counts, names = state["did"]
        self.did.include(Tally(Counter(counts), names))
        for file, error in state["failed"]:
            self.report(ImageError(error))
            self.failed.append(Failed(file, error))

    def notes(self, quiet: Collection[str] = ()) -> Iterator[str]:
        """Yields what a person has to know of the images, a line each; not what is in `quiet`."""
        said = [what for what in WORDS if self.did.counts[what] and what not in quiet]
        yield from (f"{WORDS[what]}: {self.did.named(what)}" for what in said)
        yield from (f"left out, {line}" for line in self.left_out.lines())

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return {
            **{what: self.did.counts[what] for what in WORDS},
            "left_out": dict(self.left_out.counts),
            "errors": [failed._asdict() for failed in self.failed],
        }
