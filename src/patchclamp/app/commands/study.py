"""``patchclamp study TASK``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patchclamp.app.commands import common
from patchclamp.base.estimators import DEFAULT
from patchclamp.base.progress import shown

if TYPE_CHECKING:
    from patchclamp.study.stages import Study
    from patchclamp.subjects.language import LanguageModel


def study(
    task: Annotated[
        str, typer.Argument(help="Built-in task or JSONL file; see `patchclamp tasks`. Or give --texts.")
    ] = "",
    model: common.ModelOption = "smollm2",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; default: studies/TASK-MODEL-seedN.")
    ] = None,
    items: Annotated[
        int | None, typer.Option("--items", "-n", min=8, help="Test items (48 if left out).")
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="Attribution method that ranks the units, where it agrees with exact patching."),
    ] = DEFAULT,
    ablation: Annotated[
        str, typer.Option(help="mean, zero, resample or patch (from the corrupted input).")
    ] = "mean",
    decompose: Annotated[
        str, typer.Option(help="Also find features, such as snmf or topk, and hold them against neurons.")
    ] = "",
    circuit: Annotated[
        bool,
        typer.Option(
            "--circuit",
            help="The circuit in place of single units: nodes, edges, what it keeps on held-out items.",
        ),
    ] = False,
    n_control: Annotated[
        int, typer.Option(max=10_000, help="Random sets beside every joint effect, at least 20.")
    ] = 20,
    texts: Annotated[
        str,
        typer.Option(
            help="Labelled texts in place of a task: which units are selective for a label, and do they matter? "
            "A .jsonl or .parquet file, or wordnet:noun.animal,noun.food"
        ),
    ] = "",
    sites: Annotated[str, typer.Option(help="With --texts: the candidates.")] = "mlp_act.*",
    seed: common.SeedOption = 0,
    corruption: common.CorruptionOption = None,
    device: common.DeviceOption = "auto",
    dtype: common.DtypeOption = "auto",
    as_json: common.JsonOption = False,
) -> None:
    """Find the units that carry a behaviour, prove it on held-out items, and write claims and a report."""
    from rich.text import Text

    from patchclamp.base.errors import PatchclampError
    from patchclamp.base.files import way_out
    from patchclamp.study import StudyOptions, load_for_study, run_study
    from patchclamp.study.report.text import between, percent
    from patchclamp.study.stages import KEPT

    if bool(task) == bool(texts):
        raise PatchclampError(
            "give a task (see `patchclamp tasks`), or --texts with labelled texts, and not both"
        )
    if out is not None:
        way_out(out, "folder", KEPT)
    if texts:
        study_concepts(
            common.open_model(model, device, dtype), texts, sites, out, items, n_control, seed, as_json
        )
        return
    if circuit:
        study_circuit(
            common.open_model(model, device, dtype), task, corruption, out, items, n_control, seed, as_json
        )
        return
    options = StudyOptions(seed=seed, method=method, kind=ablation, n_control=n_control, decompose=decompose)
    if items is not None:
        few = max(2, items // 2)
        options = options.change(n_train=items, n_validation=few, n_test=items, curve_items=few)
    subject = common.open_model(model, device, dtype)
    loaded = load_for_study(subject, task, options, corruption)
    with shown(not as_json) as tell:
        found = run_study(subject, loaded, out, options=options, source=task, progress=tell)
    rows = [
        (
            row["name"],
            Text(percent(row["estimate"]), style="bold cyan"),
            between(row["low"], row["high"]),
            "" if row.get("control") is None else percent(row["control"]),
        )
        for row in found.context.proved.forest(found.context.selections)
    ]
    facts = found.data["task"]
    title = f"\nShare of the {facts['metric_unit']} lost when ablated, test items: {facts['size']}"
    lost = common.table(("units", "lost", "95% interval", "random units"), rows, title, right=(1, 2, 3))
    print_study(found, as_json, lost)


def study_circuit(
    subject: LanguageModel,
    task: str,
    corruption: str | None,
    out: Path | None,
    items: int | None,
    n_control: int,
    seed: int,
    as_json: bool,
) -> None:
    """Run a study of a circuit and print it."""
    from patchclamp.study import CircuitOptions, load_for_study, run_circuit_study
    from patchclamp.study.circuits.run import CIRCUIT_CORRUPTION
    from patchclamp.study.report.text import between, percent

    options = CircuitOptions(seed=seed, n_control=n_control)
    if items is not None:
        few = max(2, items // 2)
        options = options.change(n_train=items, n_validation=few, n_test=items)
    loaded = load_for_study(subject, task, options, corruption or CIRCUIT_CORRUPTION.get(task))
    with shown(not as_json) as tell:
        found = run_circuit_study(subject, loaded, out, options=options, source=task, progress=tell)
    rows = [
        (
            f"{int(row['size']):,}",
            percent(row["kept"]),
            between(row["kept_low"], row["kept_high"]),
            percent(row["left"]),
            percent(row["by_activity"]),
            row["verdict"],
        )
        for row in found.context.curve.to_dict("records")
    ]
    facts = found.data["task"]
    title = f"\nShare of the difference between the two runs, test items: {facts['size']}"
    heads = ("nodes", "kept", "95% interval", "left without", "kept by activity", "")
    print_study(found, as_json, common.table(heads, rows, title, right=(0, 1, 2, 3, 4)))


def study_concepts(
    subject: LanguageModel,
    texts: str,
    sites: str,
    out: Path | None,
    per_label: int | None,
    n_control: int,
    seed: int,
    as_json: bool,
) -> None:
    """Run a concept study and print it."""
    from patchclamp.study.concepts import ConceptOptions, run_concept_study

    options = ConceptOptions(seed=seed, sites=sites, n_control=n_control, per_label=per_label or 60)
    with shown(not as_json) as tell:
        found = run_concept_study(subject, texts, out, options=options, progress=tell)
    print_study(found, as_json)


def print_study(found: Study[Any], as_json: bool, table: Any = None) -> None:
    """Print what a study found, short: the headline, a table, the findings, the claims' number, the files."""
    from rich.text import Text

    data, folder = found.data, found.folder or Path()
    if as_json:
        common.emit_json({"folder": str(folder), **data, "claims": [c.to_json() for c in found.claims]})
        return
    screen = common.console()
    screen.print()
    screen.print(Text(data["headline"], style="bold"))
    if table is not None:
        screen.print(table)
    for finding in data["findings"]:
        screen.print(Text.assemble(("- ", "dim"), finding))
    took = data["seconds"]["total"]
    screen.print(Text(f"\n{len(found.claims)} claims, {took:.0f} s, written to {folder}/", style="dim"))
    screen.print(Text.assemble(("report  ", "dim"), str(folder / "report.html")))
    if found.claims:
        screen.print(Text.assemble(("again   ", "dim"), f"patchclamp verify {folder / 'claims.json'}"))
