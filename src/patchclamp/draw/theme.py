"""The colours of all drawings, light and dark, as custom properties of CSS; and the rules that drawings are styled by."""

from __future__ import annotations

from importlib import resources

LIGHT = (
    "--bg: #faf9f6; --card: #ffffff; --fg: #1c2026; --muted: #626b78; --line: #e5e3dc; --soft: #f2f0ea; "
    "--pos: #0b7a70; --neg: #c2501a; --accent: #0b7a70; --second: #8a5bd1; --control: #9aa1ac; --warn: #a4501a; "
    "--g1: #0b7a70; --g2: #c2501a; --g3: #8a5bd1; --g4: #3b6fd4; color-scheme: light;"
)
DARK = (
    "--bg: #121418; --card: #1a1d23; --fg: #e8eaee; --muted: #9aa3b1; --line: #2c313a; --soft: #21252c; "
    "--pos: #34cfbe; --neg: #ff9457; --accent: #34cfbe; --second: #b99bf2; --control: #6d7683; --warn: #ffb185; "
    "--g1: #34cfbe; --g2: #ff9457; --g3: #b99bf2; --g4: #82aaff; color-scheme: dark;"
)


def page_css() -> str:
    """For a page of its own: colours at its root, ``data-theme`` before what the reader's system wants; and the rules."""
    return (
        f":root {{ {LIGHT} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ {DARK} }} }}\n"
        f":root[data-theme=dark] {{ {DARK} }}\n" + chart_css()
    )


def scoped_css(scope: str) -> str:
    """For a part of somebody else's page, such as a notebook: nothing outside `scope`, a selector, is touched.

    A notebook's own theme (JupyterLab's attribute, VS Code's class) goes before what the reader's system wants.
    """
    return (
        f"{scope} {{ {LIGHT} {chart_css()} }}\n"
        f"@media (prefers-color-scheme: dark) {{ {scope} {{ {DARK} }} }}\n"
        f"[data-jp-theme-light=true] {scope}, .vscode-light {scope} {{ {LIGHT} }}\n"
        f"[data-jp-theme-light=false] {scope}, .vscode-dark {scope} {{ {DARK} }}\n"
    )


def chart_css() -> str:
    """Rules of the classes that charts and marked texts have."""
    return (resources.files("patchclamp.draw") / "chart.css").read_text(encoding="utf-8")
