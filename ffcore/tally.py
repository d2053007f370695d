"""What is to be said of many files: counted by what it is, the first named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

NAMED = 3


@dataclass
class Tally:
    """Files counted by what is said of them."""

    counts: Counter[str] = field(default_factory=Counter)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, what: str, name: str) -> None:
        """Counts a file."""
        self.counts[what] += 1
        named = self.names.setdefault(what, [])
        if len(named) < NAMED:
            named.append(name)

    def include(self, other: Tally) -> None:
        """Counts all that another has counted."""
        self.counts.update(other.counts)
        for what, names in other.names.items():
            named = self.names.setdefault(what, [])
            named += names[: NAMED - len(named)]

    def named(self, what: str) -> str:
        """Returns the files of which something is said: `2 ('a.png', 'b.png')`, `7 ('a.png', 'b.png', 'c', ...)`."""
        count = self.counts[what]
        return f"{count:,} ({', '.join(map(repr, self.names.get(what, ())))}{', ...' if count > NAMED else ''})"

    def lines(self) -> Iterator[str]:
        """Yields `WHAT: 2 ('a.png', 'b.png')` for all that is said, sorted."""
        yield from (f"{what}: {self.named(what)}" for what in sorted(self.counts))
