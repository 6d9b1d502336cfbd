"""Put the stored figures of the benchmarks into the README; a test fails when they differ.

python -m benchmarks.tables
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md",)
RESULTS = Path(__file__).parent / "results"
MARK = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(name: str) -> str:
    """A Markdown table of one benchmark: what was run, and its ratio to the baseline of the same run."""
    found = json.loads((RESULTS / f"{name}.json").read_text())
    about = found["about"]
    head = f"{about['notes']}; {about['threads']} threads, torch {about['torch']} | time, ratio"
    rows = [f"| {row['what']} | {row['ratio']:.3g} |" for row in found["rows"]]
    return "\n".join([f"| {head} |", "| --- | --- |", *rows]) + "\n"


def filled(text: str) -> str:
    """The page with every table made anew."""
    return MARK.sub(lambda m: m[1] + table(m[2]) + m[3], text)


def main() -> None:
    """Rewrite the pages."""
    for page in PAGES:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
