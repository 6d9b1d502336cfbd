"""Style and script of circuits: part of the report, of a page of their own, and of an SVG that stands alone."""

from __future__ import annotations

import base64
import hashlib

from markupsafe import Markup

from patchclamp.draw.theme import page_css

__all__ = ["CSS", "RULES", "SCRIPT", "page"]

RULES = """
svg .lane { fill: var(--soft); fill-opacity: .6; }
svg .link { fill: none; stroke-opacity: .72; } svg .link.pos { stroke: var(--pos); }
svg .link.neg { stroke: var(--neg); stroke-dasharray: 6 2.5; }
svg .head.pos { fill: var(--pos); } svg .head.neg { fill: var(--neg); }
svg .node { fill: var(--card); stroke: var(--muted); stroke-width: 1.2; }
svg .node.pos { stroke: var(--pos); } svg .node.neg { stroke: var(--neg); stroke-dasharray: 6 2.5; }
svg a .node-label { text-decoration: none; }
svg .node-label { fill: var(--fg); font: 10.5px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; pointer-events: none; }
svg a .node-label { pointer-events: auto; }
svg .node-note { fill: var(--muted); font-size: 10.5px; pointer-events: none; } svg .legend { font-size: 10.5px; }
svg [data-group] { cursor: pointer; } svg .dim { opacity: .08; }
.circuit > .state { display: none; }
.circuit > input { position: absolute; opacity: 0; } .circuit > label { display: inline-block; border: 1px solid var(--line); border-radius: 999px; font-size: 12.5px; padding: 2px 10px; margin: 0 6px 8px 0; cursor: pointer; color: var(--muted); }
.circuit > input:checked + label { color: var(--fg); border-color: var(--accent); } .circuit > input:focus-visible + label { outline: 2px solid var(--accent); }
.circuit .entry { padding: 7px 0; border-bottom: 1px solid var(--line); font-size: 13px; color: var(--muted); overflow-wrap: anywhere; } .circuit .entry b { color: var(--fg); }
.circuit .entry:target { border-left: 3px solid var(--accent); padding-left: 9px; }
"""
"""Classes of a circuit; the colours are custom properties of the page around it."""

CSS = f"{page_css()}\n{RULES}"

SCRIPT = """
(() => {
  for (const circuit of document.querySelectorAll(".circuit")) {
    circuit.addEventListener("click", (event) => {
      const group = event.target.dataset && event.target.dataset.group;
      if (!group) return;
      const inputs = [...circuit.querySelectorAll("input")];
      const wanted = inputs.find((one) => one.dataset.opens === group && !one.checked) || inputs[0];
      if (wanted) wanted.checked = true;
    });
    circuit.addEventListener("pointerover", (event) => {
      const node = event.target.dataset && event.target.dataset.node;
      for (const one of circuit.querySelectorAll("[data-from]"))
        one.classList.toggle("dim", Boolean(node) && one.dataset.from !== node && one.dataset.to !== node);
    });
  }
})();
"""
"""Opens a group that is clicked, and leaves only the edges of the node under the pointer."""

_HTML = """
body { margin: 0; background: var(--bg); color: var(--fg); font: 16px/1.6 system-ui, "DejaVu Sans", sans-serif; }
main { max-width: 1280px; margin: 0 auto; padding: 20px; } h1 { font-size: 24px; }
svg { width: 100%; height: auto; display: block; margin: 0 auto; } .scroll { overflow-x: auto; }
.caption { font-size: 13.5px; color: var(--muted); margin: 8px 0 0; } summary { cursor: pointer; color: var(--accent); font-size: 13.5px; margin-top: 10px; }
.tok { font-family: ui-monospace, Menlo, "DejaVu Sans Mono", monospace; background: var(--soft); border-radius: 4px; padding: 0 5px; margin: 1px 3px 1px 0; white-space: pre; }
mark { background: color-mix(in srgb, var(--accent) 20%, transparent); color: var(--fg); }
#tip { position: fixed; pointer-events: none; background: var(--fg); color: var(--bg); font-size: 12.5px; padding: 4px 9px; border-radius: 7px; max-width: 300px; opacity: 0; }
"""
_TIP = """
(() => {
  const tip = document.getElementById("tip");
  document.addEventListener("pointermove", (event) => {
    const words = event.target.dataset && event.target.dataset.tip;
    tip.style.opacity = words ? 1 : 0;
    if (!words) return;
    tip.textContent = words;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(6, Math.min(event.clientX + 12, innerWidth - box.width - 8)) + "px";
    tip.style.top = (event.clientY > 60 ? event.clientY - box.height - 10 : event.clientY + 16) + "px";
  });
})();
"""


def page(title: str, body: Markup) -> str:
    """A page that stands alone: it loads nothing, and only its own script, known by its hash, can run."""
    script = SCRIPT + _TIP
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return str(
        Markup(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta http-equiv="Content-Security-Policy" content="{}"><title>{}</title><style>{}</style></head>\n'
            '<body><main><h1>{}</h1>\n{}\n</main><div id="tip" role="status"></div><script>{}</script></body></html>\n'
        ).format(Markup(policy), title, Markup(CSS + _HTML), title, body, Markup(script))
    )
