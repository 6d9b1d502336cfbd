"""Hostile input, one case a process: what each ends in, how much it reads, and a limit on what it may take.

A case is a command line or a few lines of Python that call what is public. `Child` is one warm process, which has
imported the package and torch; each case is a fork of it, so that a hundred cases pay for the imports once. In the fork:

* the address space may grow by `ROOM` over what the imports have taken, so a size that a file claims and nothing checks
  ends in a MemoryError (memory maps of files count too);
* an alarm ends it after `SECONDS`, whatever it is doing, in C or in Python;
* bytes are counted that read() and its kin hand over, in any library (``rchar`` of the process: from the cache of the
  system too; pages of memory maps are not seen by it).

`Outcome.broken` says what is wrong: a case ends in success, or in status 2 with one line that says why, and reads no more
than `FACTOR` times the bytes of its files plus `BASE` (modules that are imported late).
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

ROOM = 2 * 2**30
SECONDS = 30
FACTOR = 10
BASE = 48 * 2**20
MOST = 8
"""Cases of one test, spread evenly, unless PATCHCLAMP_HOSTILE is ``all``: thousands take an hour."""
WIDTH = 1500
"""Characters of the one line."""


@dataclass(frozen=True)
class Case:
    """One thing to do.

    Attributes
    ----------
    name : str
        What the failing assertion says.
    command : sequence of str or None
        Arguments of ``patchclamp``.
    python : str or None
        Lines to run instead; a PatchclampError ends them as it ends the command line.
    files : sequence of str
        Files and folders whose bytes bound what may be read.
    ends : sequence of int
        Statuses that are right. ``(2,)``: it must be refused. With 1: a claim or a check may fail.
    """

    name: str
    command: Sequence[str] | None = None
    python: str | None = None
    files: Sequence[str] = ()
    ends: Sequence[int] = (0, 2)


@dataclass(frozen=True)
class Outcome:
    """What a case ended in: exit status (negative: ended by that signal), what it printed, bytes that it read."""

    case: Case
    status: int
    out: str
    err: str
    read: int

    @property
    def broken(self) -> str:
        """What is wrong with it; empty where nothing is."""
        name, lines = self.case.name, self.err.strip().splitlines()
        last = lines[-1] if lines else "nothing on stderr"
        if self.status == -signal.SIGALRM:
            return f"{name}: runs on"
        if self.status < 0:
            return f"{name}: ended by signal {-self.status}: {last}"
        if "Traceback" in self.err or self.status not in self.case.ends:
            return f"{name}: status {self.status}, expected {tuple(self.case.ends)}: {last}"
        if self.status == 2 and not (len(lines) == 1 and last.startswith("patchclamp: ")):
            return f"{name}: {len(lines)} lines: {self.err.strip()[:WIDTH]}"
        if self.status == 2 and (len(last) > WIDTH or re.match(r"patchclamp: (\w+: )*\w*Error\b", last)):
            return f"{name}: no line for a person: {last[:WIDTH]}"
        allowed = FACTOR * sum(map(size, self.case.files)) + BASE
        return "" if self.read <= allowed else f"{name}: {self.read} bytes were read, {allowed} are allowed"


def size(path: str | Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    path = Path(path)
    if path.is_dir():
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return path.stat().st_size if path.is_file() else 0


def opening(path: str | Path, *options: str, name: str = "", ends: Sequence[int] = (0, 2)) -> Case:
    """``patchclamp open PATH``."""
    return Case(
        name or f"open {Path(path).name}", ["open", str(path), *options], files=[str(path)], ends=ends
    )


class Child:
    """One warm process that forks for each case; `preload` are modules beyond the package and torch."""

    def __init__(self, preload: Iterable[str] = ()) -> None:
        env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, *preload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        atexit.register(self.close)

    def run(self, case: Case) -> Outcome:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(asdict(case)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the warm process has ended"
        return Outcome(case, **json.loads(answer))

    def broken(self, cases: Iterable[Case]) -> list[str]:
        """What is wrong with any of them, or with `MOST` of them spread evenly: assert that it is empty."""
        cases = list(cases)
        if len(cases) > MOST and os.environ.get("PATCHCLAMP_HOSTILE") != "all":
            cases = [cases[i * len(cases) // MOST] for i in range(MOST)]
        return [found for case in cases if (found := self.run(case).broken)]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()


@cache
def child(*preload: str) -> Child:
    """The warm process of this run of the tests, one for each set of modules."""
    return Child(preload)


# ---- the other side: the warm process


def serve(preload: Sequence[str]) -> None:
    """Import everything once, then fork for every line of stdin and answer with a line of stdout."""
    import importlib
    import pkgutil

    import torch

    import patchclamp
    from patchclamp.base.errors import PatchclampError
    from patchclamp.subjects.files.loading import load_model

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(patchclamp.__path__, "patchclamp."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError, PatchclampError):  # what needs an optional package
                importlib.import_module(module.name)
    for name in preload:
        importlib.import_module(name)
    with contextlib.suppress(PatchclampError):  # what transformers imports late
        load_model(tempfile.gettempdir() + "/no-such-model.gguf")
    for line in sys.stdin:
        print(json.dumps(forked(json.loads(line))), flush=True)


def forked(case: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as read:
        pid = os.fork()
        if pid == 0:
            for file, number in ((out, 1), (err, 2)):
                os.dup2(file.fileno(), number)
            in_child(case, read.fileno())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        texts = []
        for file in (out, err, read):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    return {"status": status, "out": texts[0][-5000:], "err": texts[1][-5000:], "read": int(texts[2] or 0)}


def in_child(case: dict[str, Any], report: int) -> NoReturn:
    sys.stdin = open(os.devnull)  # noqa: SIM115 - until the process ends
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + ROOM, taken + ROOM))
    before = characters_read()
    status = 1
    try:
        status = done(case)
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # noqa: BLE001 - a bug's traceback is what the case is for
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.write(report, str(characters_read() - before).encode())
    os._exit(status)


def done(case: dict[str, Any]) -> int:
    from patchclamp.app import cli
    from patchclamp.base.errors import PatchclampError

    if case["command"] is not None:
        return cli.run(list(case["command"]))
    try:
        exec(case["python"], {"__name__": "case"})
    except PatchclampError as error:
        print(f"patchclamp: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def characters_read() -> int:
    with open("/proc/self/io") as file:
        return int(next(line for line in file if line.startswith("rchar")).split()[1])


# ---- what goes wrong with a file

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    0.5,
    10**23,
    2**60,
    float("inf"),
    float("nan"),
    "",
    "odd",
    "\ud800",
    [],
    {},
    [[[]]],
    [-1, "x", None],
    {"odd": {"odd": [None]}},
)
"""Values that stand where another was: as JSON, infinity is 1e400."""


def spots(document: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every place of a JSON document, the whole one first."""
    inner: Iterable[tuple[str | int, Any]] = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else ()
    )
    return [path, *(spot for key, value in inner for spot in spots(value, (*path, key)))]


def with_value(document: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """A copy of a JSON document with `value` at one place."""
    if not path:
        return value
    copy = document.copy()
    copy[path[0]] = with_value(document[path[0]], path[1:], value)
    return copy


def without(document: Any, path: tuple[str | int, ...]) -> Any:
    """A copy of a JSON document without one place."""
    copy = document.copy()
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = without(document[path[0]], path[1:])
    return copy


def as_json(document: Any) -> bytes:
    """JSON in which infinity is 1e400, as other programs write it."""
    return json.dumps(document).replace("Infinity", "1e400").encode()


def spoiled(data: bytes) -> dict[str, bytes]:
    """What happens to files: cut short, cut to nothing, bytes flipped, one part twice, another format, nested deep."""
    half = len(data) // 2
    return {
        "empty": b"",
        "one byte": data[:1],
        "head": data[:64],
        "half": data[:half],
        "all but one": data[:-1],
        "a byte more": data + b"\0",
        "zeros": bytes(len(data)),
        "head of ones": b"\xff" * min(16, len(data)) + data[16:],
        "middle of ones": data[: half - 8] + b"\xff" * 16 + data[half + 8 :],
        "tail of ones": data[:-16] + b"\xff" * 16,
        "twice": data + data,
        "text": b"hello\n",
        "deep": b"[" * 100_000,
        "deep object": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    }


def changed(data: bytes) -> SearchStrategy[bytes]:
    """For hypothesis: `data` cut short, or with a few of its bytes replaced, or with a piece taken out or doubled."""
    from hypothesis import strategies as st

    place = st.integers(0, max(0, len(data) - 1))
    head = st.integers(0, max(0, min(len(data), 4096) - 1))  # where headers are

    def replaced(edits: list[tuple[int, int]]) -> bytes:
        copy = bytearray(data)
        for where, value in edits:
            copy[where] = value
        return bytes(copy)

    return st.one_of(
        place.map(lambda end: data[:end]),
        st.lists(st.tuples(head | place, st.integers(0, 255)), min_size=1, max_size=6).map(replaced),
        st.tuples(place, st.integers(1, 64)).map(lambda cut: data[: cut[0]] + data[cut[0] + cut[1] :]),
        st.tuples(place, st.integers(1, 64)).map(lambda cut: data[: cut[0] + cut[1]] + data[cut[0] :]),
    )


if __name__ == "__main__":
    serve(sys.argv[1:])
