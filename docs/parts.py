"""Writes what the code knows into the pages of methods, networks, views and evaluations: python docs/parts.py

A page is docs/KINDs/NAME.md. What a part is stands below a line `<!-- what -->`, its settings below
`<!-- settings -->`. A test holds the pages against the code.
"""

from __future__ import annotations

import re
from pathlib import Path

from ffcore.settings import shown
from fftrain.parts import EVALUATIONS, PARTS

ALL = {**PARTS, "evaluation": EVALUATIONS}
HERE = Path(__file__).parent
MARKED = re.compile(r"^(<!-- (what|settings) -->)\n(?:.+\n)*", re.MULTILINE)
HEAD = ["| setting | default | legal | meaning |", "| --- | --- | --- | --- |"]


def pages() -> dict[tuple[str, str], Path]:
    """Returns the page of each part, by its kind and name."""
    return {(kind, name): HERE / f"{kind}s" / f"{name}.md" for kind, plugins in ALL.items() for name in plugins}


def filled(kind: str, name: str, text: str) -> str:
    """Returns a page with what the code knows of its part."""
    said = {"what": f"{ALL[kind][name]}.\n", "settings": settings(kind, name)}
    return MARKED.sub(lambda found: f"{found[1]}\n{said[found[2]]}", text)


def settings(kind: str, name: str) -> str:
    """Returns the table of a part's settings."""
    rows = shown(ALL[kind].load(name))
    if not rows:
        return "None.\n"
    prefix = name if kind == "evaluation" else kind
    lines = [f"| `{prefix}.{r['setting']}` | {r['default']} | {r['legal']} | {r['meaning']} |" for r in rows]
    return "\n".join([*HEAD, *(line.replace("|  |", "| |") for line in lines)]) + "\n"


if __name__ == "__main__":
    for (kind, name), page in pages().items():
        if page.exists():
            page.write_text(filled(kind, name, page.read_text(encoding="utf-8")), encoding="utf-8")
