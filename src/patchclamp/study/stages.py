"""Stages: a study is a list of them. Each is a function from what is known so far to a section of the study.

`run_stages` goes through the list, times each and gathers the sections; `Study` writes them as ``study.json``,
``claims.json``, Parquet tables and a report. A new study is a `Context` that says what its stages tell each other, a
function for each stage, and the list.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import pandas as pd
from markupsafe import Markup

from patchclamp.base.checkpoint import Checkpoint
from patchclamp.base.errors import PatchclampError
from patchclamp.base.files import free_folder, plain, way_out, write_json, write_text
from patchclamp.base.frozen import FreezeError, Freezer, thaw
from patchclamp.base.progress import Progress
from patchclamp.base.tables import write_frame
from patchclamp.base.version import __version__, code_fingerprint
from patchclamp.draw.cards import shown
from patchclamp.draw.charts import draw
from patchclamp.draw.svg import Svg
from patchclamp.study.claims import Claim, write_claims
from patchclamp.study.report.report import SCHEMA, render
from patchclamp.subjects import LanguageModel

__all__ = ["Column", "Context", "Cover", "Figure", "Section", "Stage", "Study", "Table", "run_stages"]

Show = Literal["text", "unit", "mono", "muted", "number", "signed", "percent", "passed", "said", "written"]


@dataclass(frozen=True)
class Figure:
    """Drawings in one frame of the report, as data.

    Parameters
    ----------
    kind
        Name in `patchclamp.draw.charts.FIGURES`.
    drawings
        Arguments of that function, one mapping a drawing.
    title, caption
        Above and below them.
    key
        What colours mean: (``"line"``, ``"dot"`` or ``"band"``, colour of ``report.css``, words).
    half
        Whether two such frames stand side by side.
    below
        Whether it stands below the section's tables.
    """

    kind: str
    drawings: Sequence[Mapping[str, Any]]
    title: str = ""
    caption: str = ""
    key: Sequence[tuple[str, str, str]] = ()
    half: bool = False
    below: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table in the report.

    Parameters
    ----------
    head, key
        Its head, and the column of the frame that it shows.
    show
        As which kind of cell; ``"said"`` and ``"written"`` show what is said about a unit, with its tokens and exemplars.
    digits
        Of a number.
    interval, ends
        Columns with its lower and upper end, and as which kind of number they are shown.
    note
        A column to show small beneath, and the words behind it.
    """

    head: str
    key: str
    show: Show = "text"
    digits: int = 2
    interval: tuple[str, str] | None = None
    ends: Show = "number"
    note: tuple[str, str] | None = None


@dataclass(frozen=True)
class Table:
    """A table: written as Parquet where it has a name, shown in the report where it has columns.

    Parameters
    ----------
    frame
        The rows.
    name
        ``NAME.parquet``.
    columns
        What the report shows of it.
    title, chip, good
        Above it: a title, a few words in a chip, and whether they are good news.
    captions
        Below it.
    marks
        Text of a cell -> words in a chip behind it.
    sortable
        Whether a reader may sort it.
    """

    frame: pd.DataFrame
    name: str = ""
    columns: Sequence[Column] = ()
    title: str = ""
    chip: str = ""
    good: bool = False
    captions: Sequence[str] = ()
    marks: Mapping[str, str] = field(default_factory=dict)
    sortable: bool = True

    @property
    def flat(self) -> pd.DataFrame:
        """The frame as Parquet holds it: tokens of a cell joined, exemplars left out."""
        kept = self.frame.drop(columns=["exemplars", "decoded"], errors="ignore")
        for name in {"promotes", "suppresses"} & set(kept):
            kept[name] = [" | ".join(entry["token"] for entry in cell) for cell in kept[name]]
        return kept

    def to_json(self) -> dict[str, Any]:
        """What the report shows of it."""
        told = {f: getattr(self, f) for f in self.__dataclass_fields__ if f not in ("frame", "columns")}
        return {**told, "columns": [asdict(c) for c in self.columns], "rows": self.frame.to_dict("records")}


@dataclass(frozen=True)
class Section:
    """What a stage found, and how the report tells it.

    Parameters
    ----------
    claims
        Findings that can be measured again.
    tables, figures
        In the order of the report.
    facts
        Everything else that ``study.json`` holds of it, by name.
    heading, text, note
        Heading of the report (none: the section goes on with the one before), the paragraph under it and small print
        at its end.
    headline, tiles, findings
        What it adds to the top of the report: the answer, large figures (value, what it is) and sentences.
    appendix
        Whether the report shows it behind the others.
    save
        Writes further files into the folder of the study.
    """

    claims: Sequence[Claim] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    heading: str = ""
    text: str = ""
    note: str = ""
    headline: str = ""
    tiles: Sequence[tuple[str, str]] = ()
    findings: Sequence[str] = ()
    appendix: bool = False
    save: Callable[[Path], None] | None = None

    def to_json(self, stage: str) -> dict[str, Any]:
        """The section as plain data; claims by their names."""
        return {
            "stage": stage,
            **{name: getattr(self, name) for name in ("heading", "text", "note", "facts", "appendix")},
            "claims": [claim.id for claim in self.claims],
            "figures": [asdict(figure) for figure in self.figures],
            "tables": [table.to_json() for table in self.tables if table.columns],
        }


@dataclass(frozen=True)
class Cover:
    """What frames the sections of a study.

    Parameters
    ----------
    kind, name
        Such as ``"concept study"`` of ``"WordNet"``.
    question
        Three parts; the middle one is emphasised.
    note
        Small print below the findings: which items chose and which verified.
    limits
        What the numbers are not evidence for.
    command
        What to type to run it again.
    colophon
        Model, data and seed in a sentence or two.
    facts
        Options, model and data for ``study.json``.
    folder
        Where it is written unless the caller says otherwise.
    """

    kind: str
    name: str
    question: tuple[str, str, str]
    note: str
    limits: Sequence[str]
    command: str
    colophon: str
    facts: Mapping[str, Any]
    folder: str


@dataclass(repr=False)
class Context:
    """What the stages of a study share: the model, where the study is, and the sections so far.

    A study's own context adds its options, its data, and a field for each thing that one stage finds and a later one
    needs; a field that no stage has filled yet says so when it is read.

    Parameters
    ----------
    subject
        The model.
    progress
        Called with (text, done, total) as the study goes on.
    """

    subject: LanguageModel
    progress: Progress | None
    sections: dict[str, Section] = field(init=False, default_factory=dict)
    seconds: dict[str, float] = field(init=False, default_factory=dict)
    stage: str = field(init=False, default="")

    def cover(self) -> Cover:
        """What frames the sections."""
        raise NotImplementedError

    def decided_by(self) -> Mapping[str, Any] | None:
        """All that decides what the stages find, as JSON values; None: sections are not kept for a resumed run."""
        return None

    def say(self, text: str, done: float = 0, total: float | None = None) -> None:
        """Report where the stage is."""
        if self.progress is not None:
            self.progress(text if text == self.stage else f"{self.stage}: {text}", done, total)

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Announce a stage and time it."""
        self.stage = stage
        self.say(stage)
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The claims of all sections."""
        return tuple(claim for section in self.sections.values() for claim in section.claims)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            if name in type(self).__dataclass_fields__:
                raise PatchclampError(
                    f"{name}: no stage has found it yet; put the one that does before this one"
                )
            raise AttributeError(name)


C = TypeVar("C", bound=Context)


@dataclass(frozen=True)
class Stage(Generic[C]):
    """A step of a study.

    Parameters
    ----------
    name
        What it does, as progress shows it.
    run
        Takes the context, leaves in it what later stages need as fields of its own, and returns the section.
    again
        What the stage leaves in memory besides, such as means: called where its section is taken from the disk.
    """

    name: str
    run: Callable[[C], Section]
    again: Callable[[C], None] | None = None


@shown
@dataclass(frozen=True)
class Study(Generic[C]):
    """What a study found.

    Parameters
    ----------
    context
        All that its stages found.
    data
        The content of ``study.json``.
    folder
        Where everything lies; None when nothing was written.
    """

    context: C = field(repr=False)
    data: Mapping[str, Any] = field(repr=False)
    folder: Path | None = None

    @property
    def claims(self) -> tuple[Claim, ...]:
        """The findings as claims."""
        return self.context.claims

    @property
    def facts(self) -> dict[str, Any]:
        """What the sections of ``study.json`` hold, by name."""
        return {name: fact for section in self.data["sections"] for name, fact in section["facts"].items()}

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables that are written as Parquet."""
        tables = [table for section in self.context.sections.values() for table in section.tables]
        return {table.name: table.flat for table in tables if table.name}

    @property
    def units(self) -> pd.DataFrame:
        """The selected units."""
        return self.tables["units"]

    @property
    def report(self) -> Path | None:
        """The report's path."""
        return None if self.folder is None else self.folder / "report.html"

    def __str__(self) -> str:
        return "\n".join([self.data["headline"], *(f"- {finding}" for finding in self.data["findings"])])

    def _picture(self) -> Svg | Markup | None:
        """The first figure of the report that is no text."""
        figures = (figure for section in self.data["sections"] for figure in section["figures"])
        first = next((figure for figure in figures if figure["kind"] != "examples"), None)
        return None if first is None else draw(first["kind"], first["drawings"][0])

    def write(self, folder: str | Path | None = None) -> Study[C]:
        """Write ``study.json``, ``claims.json``, the tables and the report into a new folder.

        Raises
        ------
        PatchclampError
            If the folder holds a finished study or anything else; nothing is written then.
        """
        path = way_out(folder if folder is not None else self.context.cover().folder, "folder", KEPT)
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "study.json", self.data)
        if self.claims:
            write_claims(path / "claims.json", self.claims, __version__)
        for name, table in self.tables.items():
            write_frame(path / f"{name}.parquet", table)
        for section in self.context.sections.values():
            if section.save is not None:
                section.save(path)
        write_text(path / "report.html", render(self.data, [claim.to_json() for claim in self.claims]))
        shutil.rmtree(path / KEPT, ignore_errors=True)
        return replace(self, folder=path)


KEPT = ".stages"
"""Folder in that of a study in which the sections of finished stages wait for the others."""


def run_and_write(
    stages: Sequence[Stage[C]], context: C, name: str, out: str | Path | None = None, write: bool = True
) -> Study[C]:
    """`run_stages`, its study written to `out`, or to a free folder of that name; without `write` nothing is kept."""
    folder = (out or free_folder(name, KEPT)) if write else None
    study = run_stages(stages, context, folder)
    return study if folder is None else study.write(folder)


def run_stages(stages: Sequence[Stage[C]], context: C, keep: str | Path | None = None) -> Study[C]:
    """Run the stages in turn and gather their sections.

    Parameters
    ----------
    stages, context
        What to do, and on what.
    keep
        Folder of the study: each finished section is kept there, with all that decides it, until the study is written. A
        run that was killed takes them from there and goes on behind them.

    Raises
    ------
    PatchclampError
        If what is kept there was decided by something else, naming it; or if the folder holds anything else.

    Examples
    --------
    >>> study = run_stages([Stage("counting layers", count)], context)          # doctest: +SKIP
    >>> study.write("studies/mine").report                                      # doctest: +SKIP
    """
    kept = _Kept(None if keep is None else way_out(keep, "folder", KEPT) / KEPT, context)
    waiting = []
    for number, stage in enumerate(stages):
        if kept.take(number, stage):
            waiting += [stage.again] if stage.again is not None else []
            continue
        for again in waiting:
            again(context)
        waiting = []
        before = dict(context.__dict__)
        with context.clock(stage.name):
            context.sections[stage.name] = stage.run(context)
        kept.put(number, stage, before)
    return Study(context, plain(_data(context)))


class _Kept:
    """The sections of finished stages on disk, and what the stages left in the context."""

    def __init__(self, folder: Path | None, context: Context) -> None:
        self.context, self.gone = context, False
        decided = None if folder is None else context.decided_by()
        self.folder = None if decided is None else folder
        self.decided = {**(decided or {}), "code": code_fingerprint()} if self.folder else {}
        self.names: list[str] = []

    def _state(self, number: int, stage: Stage[Any]) -> Checkpoint:
        self.names = [*self.names[:number], stage.name]
        return Checkpoint(self.folder, {**self.decided, "stages": self.names}, f"stage-{number}")

    def take(self, number: int, stage: Stage[Any]) -> bool:
        """Put what was kept of a stage into the context; False where nothing was, or a stage before it ran anew."""
        found = self._state(number, stage).load() if self.folder and not self.gone else None
        if found is None:
            self.gone = True
            return False
        (tensors, note), context = found, self.context
        try:
            if not isinstance(note, dict) or not {"left", "classes", "seconds"} <= note.keys():
                raise PatchclampError("damaged: its entries are not those of a stage")
            left = thaw(note["left"], tensors, note["classes"], context.__dict__)
            if not isinstance(left, dict) or not isinstance(left.get(""), Section):
                raise PatchclampError("damaged: it holds no section")
            seconds = float(note["seconds"])
        except (PatchclampError, TypeError) as error:
            raise PatchclampError(
                f"{self.folder}: what was kept of the stage {stage.name!r} is {error}; delete that folder to begin anew"
            ) from error
        context.sections[stage.name] = left.pop("")
        context.seconds[stage.name] = seconds
        context.__dict__.update(left)
        return True

    def put(self, number: int, stage: Stage[Any], before: Mapping[str, Any]) -> None:
        """Keep a section and the fields that its stage set; one that cannot be written as data is run again."""
        if self.folder is None:
            return
        context = self.context
        names = [name for name, value in context.__dict__.items() if before.get(name, self) is not value]
        left = {
            name: context.__dict__[name] for name in names if name not in ("sections", "seconds", "stage")
        }
        freezer = Freezer({name: value for name, value in before.items() if not isinstance(value, _PLAIN)})
        try:
            node = freezer.freeze({"": context.sections[stage.name], **left})
        except FreezeError:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        note = {"left": node, "classes": freezer.classes, "seconds": context.seconds[stage.name]}
        self._state(number, stage).save(freezer.tensors, note)


_PLAIN = (str, int, float, bool, type(None))


def _data(context: Context) -> dict[str, Any]:
    """The content of ``study.json``."""
    cover, sections = context.cover(), context.sections.values()
    tables = [table.name for section in sections for table in section.tables if table.name]
    return {
        "schema": SCHEMA,
        "version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": {**context.seconds, "total": sum(context.seconds.values())},
        **{
            name: getattr(cover, name)
            for name in cover.__dataclass_fields__
            if name not in ("facts", "folder")
        },
        **cover.facts,
        "headline": next((section.headline for section in sections if section.headline), ""),
        "tiles": [{"value": value, "what": what} for s in sections for value, what in s.tiles],
        "findings": [finding for section in sections for finding in section.findings],
        "tables": tables,
        "sections": [section.to_json(name) for name, section in context.sections.items()],
    }
