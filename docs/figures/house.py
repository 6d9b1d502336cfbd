"""The drawing of the house, from the plan that import-linter holds: ``python docs/figures/house.py`` writes it anew."""

from __future__ import annotations

import tomllib
from pathlib import Path

from patchclamp.draw.svg import element

ROOT = Path(__file__).resolve().parents[2]
FIGURE = ROOT / "docs" / "figures" / "house.svg"
WIDTH, ROW, GAP, PAD = 880, 44, 12, 8
SAYS = {
    "app": "the command line",
    "study": "stages, claims, reports, leaderboard",
    "truth": "systems whose answer is known",
    "subjects": "families · files · proof · clamp: hooks, edits, trials, controls",
    "nouns": "units · recording · tasks · intervention · scores · dictionary · graph",
    "draw": "pictures from arrays and tables",
    "base": "errors, statistics, folds, files",
}


def floors() -> list[list[str]]:
    """The boxes of each floor, from the top down: the layers of the first contract in pyproject.toml."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = config["tool"]["importlinter"]["contracts"][0]["layers"]
    return [[box.strip() for box in layer.split("|")] for layer in layers]


def drawing() -> str:
    """The floors as rows of boxes; arrows of import go down only."""
    parts = []
    plan = floors()
    height = len(plan) * (ROW + GAP) + GAP
    for row, boxes in enumerate(plan):
        top = GAP + row * (ROW + GAP)
        wide = (WIDTH - GAP * (len(boxes) + 1)) / len(boxes)
        for place, box in enumerate(boxes):
            left = GAP + place * (wide + GAP)
            middle = left + wide / 2
            said = SAYS.get(box, "")
            parts.append(
                element("rect", x=left, y=top, width=wide, height=ROW, rx=6, fill="#e8f1f1", stroke="#2b7a78")
            )
            parts.append(
                element(
                    "text", box, x=middle, y=top + (18 if said else 27), fill="#123", font_size=14 if said else 12,
                    font_weight="bold", text_anchor="middle",
                )
            )  # fmt: skip
            if said:
                parts.append(
                    element(
                        "text", said, x=middle, y=top + 36, fill="#345", font_size=12, text_anchor="middle"
                    )
                )
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="system-ui, sans-serif" role="img" aria-label="The boxes of patchclamp on their floors">'
    )
    return "\n".join([head, *map(str, parts), "</svg>", ""])


if __name__ == "__main__":
    FIGURE.parent.mkdir(exist_ok=True)
    FIGURE.write_text(drawing(), encoding="utf-8")
