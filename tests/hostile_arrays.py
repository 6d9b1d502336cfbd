"""Hostile files of recorded activity, made by a script: NumPy, MATLAB and tables that are odd, damaged or made up."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

RNG = np.random.default_rng(0)
ACTIVITY = RNG.normal(size=(60, 4))


def commands(path: Path, *more: str) -> Iterator[tuple[str, ...]]:
    """What a person does with a file of activity."""
    yield ("open", str(path), *more)
    yield ("open", str(path), "--what", "activity", *more)
    if not more:
        yield ("measure", str(path))


def saved(values: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, **options)
    return file.getvalue()


def headed(text: str | bytes, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """A ``.npy`` with this text for its header."""
    head = text.encode() if isinstance(text, str) else text
    size = struct.pack("<H" if version[0] == 1 else "<I", len(head))
    return b"\x93NUMPY" + version + size + head + body


def zipped(parts: dict[str, bytes], **options: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return file.getvalue()


def descr(shape: Any, kind: str = "<f8", order: str = "False") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}\n"


def npy() -> dict[str, bytes]:
    nan, body = np.full((60, 4), np.nan), ACTIVITY.tobytes()
    found = {
        "pickled": saved(np.array([{"a": 1}, None], object), allow_pickle=True),
        "objects": headed(descr("(60, 4)", "|O"), b"\x80\x04K\x01."),
        "fortran": saved(np.asfortranarray(ACTIVITY)),
        "0-d": saved(np.float64(3)),
        "1-d": saved(np.ones(60)),
        "5-d": saved(np.ones((2, 2, 2, 2, 2))),
        "32-d": headed(descr("(1,)*1"), body),
        "64-d": headed(descr("(" + "1, " * 65 + ")"), body),
        "no samples": saved(np.zeros((0, 4))),
        "no units": saved(np.zeros((60, 0))),
        "nan": saved(nan),
        "one inf": saved(np.where(np.arange(240).reshape(60, 4) == 77, np.inf, ACTIVITY)),
        "complex": saved(ACTIVITY + 1j),
        "text": saved(np.array([["a", "b"], ["c", "d"]])),
        "bool": saved(ACTIVITY > 0),
        "dates": saved(np.array(["2020-01-01", "2020-01-02"], "datetime64[D]").reshape(2, 1)),
        "records": saved(np.zeros(60, [("a", "f8"), ("b", "i4")])),
        "big endian": saved(ACTIVITY.astype(">f8")),
        "half": saved(ACTIVITY.astype("f2")),
        "long double": saved(ACTIVITY.astype("longdouble")),
        "uint64": saved(np.full((60, 4), 2**64 - 1, "u8")),
        "huge numbers": saved(ACTIVITY * 1e300),
        "cut": saved(ACTIVITY)[:-9],
        "cut in its head": saved(ACTIVITY)[:40],
        "head only": saved(ACTIVITY)[:128],
        "magic only": b"\x93NUMPY",
        "huge shape": headed(descr((10**9, 10**9)), body),
        "beyond 64 bits": headed(descr((10**30, 4)), body),
        "negative shape": headed(descr((-60, 4)), body),
        "wrapping shape": headed(descr((2**62, 4)), body),
        "shape of text": headed(descr("('60', 4)"), body),
        "shape of bool": headed(descr("(True, 4)"), body),
        "shape is a number": headed(descr(60), body),
        "unknown type": headed(descr((60, 4), "<q9"), body),
        "type of zero bytes": headed(descr((60, 4), "|V0"), body),
        "odd list of types": headed("{'descr': [('a', '<f8', 3), ('a', 'x')], 'fortran_order': False, 'shape': (3,), }\n"),
        "head is no dict": headed("[1, 2]\n", body),
        "head lacks a key": headed("{'descr': '<f8', 'shape': (60, 4), }\n", body),
        "head is code": headed("__import__('os').system('true')\n", body),
        "head of brackets": headed("(" * 9000 + "\n", body),
        "head of minus signs": headed("-" * 9000 + "1\n", body),
        "head is not text": headed(b"\xff" * 118 + b"\n", body),
        "head of NUL": headed(b"\0" * 117 + b"\n", body),
        "head is large": headed(descr((60, 4)) + " " * 60000, body),
        "version 3": headed(descr((60, 4)), body, b"\x03\x00"),
        "version 9": headed(descr((60, 4)), body, b"\x09\x00"),
        "is an archive": zipped({"activity.npy": saved(ACTIVITY)}),
        "is text": b"activity\n1\n2\n",
    }  # fmt: skip
    return {f"{name}.npy": data for name, data in found.items()}


def encrypted() -> bytes:
    data = bytearray(zipped({"activity.npy": saved(ACTIVITY)}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def method(number: int) -> bytes:
    """An archive whose member says that it is packed by another method."""
    data = bytearray(zipped({"activity.npy": saved(ACTIVITY)}))
    data[8] = number
    data[data.index(b"PK\x01\x02") + 10] = number
    return bytes(data)


def flipped(data: bytes, place: int) -> bytes:
    out = bytearray(data)
    out[place] ^= 0xFF
    return bytes(out)


def npz() -> dict[str, bytes]:
    lfp = saved(ACTIVITY)
    plain = zipped({"activity.npy": lfp})

    def fields(**values: Any) -> bytes:
        file = io.BytesIO()
        np.savez(file, **{"activity": ACTIVITY, **values})
        return file.getvalue()

    spikes = {"spike_times": np.arange(5.0), "spike_units": np.array([0, 1, 0, 1, 0])}

    def trains(**values: Any) -> bytes:
        file = io.BytesIO()
        np.savez(file, **{**spikes, **values})
        return file.getvalue()

    found = {
        "nothing": zipped({}),
        "no array": zipped({"activity.txt": b"1 2 3", "notes.npy.bak": b""}),
        "text named npy": zipped({"activity.npy": b"1 2 3"}),
        "empty member": zipped({"activity.npy": b""}),
        "short member": zipped({"activity.npy": lfp[:20]}),
        "pickled member": zipped({"activity.npy": npy()["pickled.npy"]}),
        "twice": zipped({"activity.npy": lfp, "activity": lfp}),
        "odd names": zipped({"../../x.npy": lfp, "a\nb.npy": lfp, "\x1b[31mred.npy": lfp, "activity.npy": lfp}),
        "in folders": zipped({"a/activity.npy": lfp}),
        "folder entry": zipped({"activity.npy/": b""}),
        "brackets": zipped({"activity.npy": headed("(" * 9000, lfp)}),
        "beyond 64 bits": zipped({"activity.npy": headed(descr((10**30, 4)), lfp)}),
        "negative": zipped({"activity.npy": headed(descr((-60, 4)), lfp)}),
        "version 3": zipped({"activity.npy": headed(descr((60, 4)), ACTIVITY.tobytes(), b"\x03\x00")}),
        "version 9": zipped({"activity.npy": headed(descr((60, 4)), ACTIVITY.tobytes(), b"\x09\x00")}),
        "encrypted": encrypted(),
        "method 99": method(99),
        "method 8": method(8),
        "method 12": method(12),
        "method 14": method(14),
        "sum flipped": flipped(plain, 200),
        "tail cut": plain[:-30],
        "head cut": plain[100:],
        "cut": plain[: len(plain) // 2],
        "magic only": b"PK\x03\x04",
        "time of text": fields(time=np.array(["a"] * 60)),
        "time of nan": fields(time=np.full(60, np.nan)),
        "time backwards": fields(time=np.arange(60)[::-1]),
        "time short": fields(time=np.arange(3)),
        "time 0-d": fields(time=3),
        "step of text": fields(step="often"),
        "step empty": fields(step=np.zeros(0)),
        "step nan": fields(step=np.nan),
        "step inf": fields(step=np.inf),
        "step complex": fields(step=1j),
        "run of nan": fields(run=np.full(60, np.nan)),
        "run interleaved": fields(run=np.arange(60) % 2),
        "run records": fields(run=np.zeros(60, [("a", "f8")])),
        "label bytes": fields(label=np.array([b"\xff\xfe"] * 60)),
        "label dates": fields(label=np.array(["2020-01-01"] * 60, "datetime64[D]")),
        "label 2-d": fields(label=np.zeros((60, 3))),
        "label 0-d": fields(label=1),
        "label huge": fields(label=np.array(["1" * 5000] * 60)),
        "label digits": fields(label=np.array(["²", "٣", "-", "--1"] * 15)),
        "trial half": fields(trial=np.arange(60) / 2),
        "trial nan": fields(trial=np.full(60, np.nan)),
        "trial text": fields(trial=np.array(["x"] * 60)),
        "trial huge": fields(trial=np.full(60, 1e300)),
        "unit short": fields(unit_region=np.array(["CA1"])),
        "unit records": fields(unit_region=np.zeros(4, [("a", "f8")])),
        "unit present of text": fields(unit_present=np.array(["yes"] * 4)),
        "unit index": fields(unit_index=np.array([9, 9, -1, 10**9])),
        "unit dates": fields(unit_born=np.array(["2020-01-01"] * 4, "datetime64[D]")),
        "unit of no name": fields(unit_=np.arange(4)),
        "unit unit": fields(unit_unit=np.arange(4), unit_site=np.arange(4), unit_present=np.array([0, 1, 1, 0])),
        "behaviour named doc": fields(doc=np.arange(60), token=np.arange(60), content=np.zeros(60)),
        "behaviour of nothing": fields(**{"": np.arange(60)}),
        "behaviour wide": fields(speed=np.zeros((60, 3, 2))),
        "spikes not finite": trains(spike_times=np.array([0, np.nan, 1, np.inf, 3])),
        "spikes of text": trains(spike_times=np.array(["a"] * 5)),
        "owners of text": trains(spike_units=np.array(["a"] * 5)),
        "owners nan": trains(spike_units=np.full(5, np.nan)),
        "owners negative": trains(spike_units=np.array([0, -1, 0, 0, 0])),
        "owners huge": trains(spike_units=np.array([0, 0, 0, 0, 2**62])),
        "owners half": trains(spike_units=np.array([0, 0.5, 0, 0, 1])),
        "many units": trains(n_units=10**12),
        "units of text": trains(n_units="many"),
        "units empty": trains(n_units=np.zeros(0)),
        "span short": trains(span=np.array([1.0])),
        "span text": trains(span=np.array(["a", "b"])),
        "span nan": trains(span=np.array([np.nan, np.nan])),
        "span inside": trains(span=np.array([2.0, 3.0])),
        "span turned": trains(span=np.array([9.0, -1.0])),
        "no spike": trains(spike_times=np.zeros(0), spike_units=np.zeros(0)),
        "spikes 0-d": trains(spikes=3.0),
        "spikes square": trains(spikes=np.arange(6.0).reshape(2, 3)),
    }  # fmt: skip
    return {f"{name}.npz": data for name, data in found.items()}


def tables() -> dict[str, bytes]:
    rows = "\n".join(",".join(f"{v:.3f}" for v in row) for row in ACTIVITY)
    plain = f"a,b,c,d\n{rows}\n"
    return {
        "head only.csv": b"a,b,c\n",
        "newlines.csv": b"\n\n\n",
        "one number.csv": b"3\n",
        "one column.csv": b"x\n1\n2\n3\n",
        "ragged.csv": b"a,b\n1,2\n3,4,5\n6\n",
        "ragged first.csv": b"a,b\n1,2,3\n3,4,5\n",
        "ragged short.csv": b"a,b,c\n1,2\n3,4\n",
        "unclosed.csv": b'a,b\n1,"2\n3,4\n',
        "unclosed head.csv": b'"a,b\n1,2\n3,4\n',
        "nul.csv": b"a,b\n1,\x002\n3,4\n",
        "nul only.csv": b"\0" * 100,
        "latin-1.csv": "größe,b\n1,2\n".encode("latin-1"),
        "utf-16.csv": plain.encode("utf-16"),
        "bom.csv": b"\xef\xbb\xbf" + plain.encode(),
        "cr.csv": plain.replace("\n", "\r").encode(),
        "semicolons.csv": plain.replace(",", ";").encode(),
        "decimal commas.csv": b"a;b\n1,5;2,5\n",
        "inf.csv": b"a,b\n1,inf\n2,-Infinity\n3,nan\n",
        "mixed.csv": b"a,b\n1,2\nx,3\n4,\n",
        "dates.csv": b"time,a\n2020-01-01,1\n2020-01-02,2\n",
        "time text.csv": b"time,a\n0.1,1\nlater,2\n",
        "time missing.csv": b"time,a\n0.1,1\n,2\n",
        "same names.csv": b"a,a,a\n1,2,3\n4,5,6\n",
        "no names.csv": b",,\n1,2,3\n4,5,6\n",
        "digits.csv": b"a\n" + b"9" * 400 + b"\n1\n",
        "whole beyond 64 bits.csv": b"a,b\n18446744073709551616,1\n3,4\n",
        "hex.csv": b"a,b\n0x10,1\n0x11,2\n",
        "thousands.csv": b'a,b\n"1,000",1\n"2,000",2\n',
        "booleans.csv": b"a,b\nTrue,1\nFalse,2\n",
        "comment.csv": b"# made by us\na,b\n1,2\n",
        "wide.csv": (",".join(f"u{i}" for i in range(20000)) + "\n" + ",".join("1" * 20000) + "\n").encode(),
        "huge line.csv": b"a,b\n" + b"1" * 3_000_000 + b",2\n",
        "huge quoted.csv": b'a,b\n"' + b"x" * 3_000_000 + b'",2\n',
        "escape.csv": b"\x1b[31mred\x1b[0m,b\n1,2\n3,4\n",
        "markup.csv": b"[bold]x[/bold],[/]\n1,2\n3,4\n",
        "bidi.csv": "\u202eabc,\u2066b\n1,2\n3,4\n".encode(),
        "surrogate.csv": b"\xed\xa0\x80,b\n1,2\n",
        "binary.csv": bytes(range(256)) * 20,
        "gzipped.csv": b"\x1f\x8b\x08\x00" + bytes(50),
        "parquet.csv": b"PAR1" + bytes(50),
        "spikes.csv": b"unit,time\na,0.1\nb,0.2\na,0.3\n",
        "spikes backwards.csv": b"unit,time\na,0.3\na,0.1\n",
        "spikes mixed.csv": b"unit,time\na,0.1\n3,0.2\n,0.3\n",
        "spikes text.csv": b"unit,time\na,soon\n",
        "spikes none.csv": b"unit,time\n",
        "label mixed.csv": b"label,a\nx,1\n3,2\n,3\n",
        "trial half.csv": b"trial,a\n0.5,1\n1,2\n",
        "trial missing.csv": b"trial,a\n,1\n1,2\n",
        "run apart.csv": b"run,a\nx,1\ny,2\nx,3\n",
        "time twice.csv": b"time,time,a\n0,0,1\n1,1,2\n",
        "only fixed.csv": b"time,label\n0,1\n1,2\n",
        "tabs.tsv": plain.replace(",", "\t").encode(),
        "commas.tsv": plain.encode(),
    }  # fmt: skip


def parquets(folder: Path) -> dict[str, bytes]:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    def made(table: Any, **options: Any) -> bytes:
        file = pa.BufferOutputStream()
        pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), file, **options)
        return bytes(file.getvalue())

    plain = made({"a": [1.0, 2, 3], "b": [4.0, 5, 6]})
    return {
        "plain.parquet": plain,
        "cut.parquet": plain[: len(plain) // 2],
        "tail cut.parquet": plain[:-4],
        "head flipped.parquet": flipped(plain, 10),
        "middle flipped.parquet": flipped(plain, 30),
        "foot flipped.parquet": flipped(plain, len(plain) - 30),
        "foot zeros.parquet": plain[:-60] + bytes(52) + plain[-8:],
        "foot huge.parquet": plain[:-8] + struct.pack("<I", 2**31 - 1) + b"PAR1",
        "magic only.parquet": b"PAR1",
        "two magics.parquet": b"PAR1PAR1",
        "csv.parquet": b"a,b\n1,2\n",
        "no rows.parquet": made({"a": pa.array([], pa.float64())}),
        "no columns.parquet": made(pa.table({})),
        "lists.parquet": made({"a": [[1.0], [2.0, 3.0]]}),
        "structs.parquet": made({"a": [{"b": 1.0}, {"b": 2.0}]}),
        "nulls.parquet": made({"a": [1.0, None, 3.0], "b": [1, None, 2]}),
        "null type.parquet": made({"a": pa.nulls(3), "b": [1.0, 2, 3]}),
        "text.parquet": made({"a": ["x", "y"], "b": [1.0, 2]}),
        "decimal.parquet": made({"a": pa.array([1, 2], pa.decimal128(20, 3))}),
        "dates.parquet": made({"time": pd.to_datetime(["2020", "2021"]), "a": [1.0, 2]}),
        "spans.parquet": made({"time": pa.array([1, 2], pa.duration("s")), "a": [1.0, 2]}),
        "binary.parquet": made({"text": [b"\xff\xfe", b"\x00"], "a": [1.0, 2]}),
        "half.parquet": made({"a": pa.array(np.float16([1, 2]))}),
        "same names.parquet": made(pa.Table.from_arrays([pa.array([1.0, 2]), pa.array([3.0, 4])], ["a", "a"])),
        "odd names.parquet": made({"a\nb": [1.0, 2], "\x1b[31m": [1.0, 2], "": [1.0, 2]}),
        "groups.parquet": made({"a": np.arange(100.0)}, row_group_size=7),
        "dictionary.parquet": made({"a": pa.array(["x", "y"]).dictionary_encode(), "b": [1.0, 2]}),
        "spikes.parquet": made({"unit": ["a", None, "b"], "time": [0.1, 0.2, None]}),
        "spikes of text.parquet": made({"unit": ["a", "b"], "time": ["x", "y"]}),
        "false metadata.parquet": made(pa.table({"a": [1.0]}).replace_schema_metadata({"pandas": "{not json"})),
    }  # fmt: skip


def mats(folder: Path) -> dict[str, bytes]:
    from scipy.io import savemat

    def made(**values: Any) -> bytes:
        file = io.BytesIO()
        savemat(file, values)
        return file.getvalue()

    plain = made(activity=ACTIVITY)
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = np.arange(3.0), "text"
    deep: Any = np.arange(3.0)
    for _ in range(60):
        deep = {"a": deep}
    return {
        "empty": made(),
        "deep": made(activity=ACTIVITY, notes=deep),
        "cells": made(spikes=cells),
        "text": made(activity="some text"),
        "sparse": made(activity=__import__("scipy.sparse").sparse.csc_matrix(ACTIVITY)),
        "complex": made(activity=ACTIVITY + 1j),
        "spikes struct": made(spikes={"a": np.arange(3.0)}),
        "struct array": made(activity=np.zeros((2, 2), [("a", "f8"), ("b", "f8")])),
        "no cells": made(spikes=np.empty((0, 0), object)),
        "version 4": struct.pack("<5i", 0, 60, 4, 0, 9) + b"activity\0" + ACTIVITY.T.tobytes(),
        "head flipped": flipped(plain, 126),
        "kind flipped": flipped(plain, 129),
        "nothing": b"MATLAB 5.0 MAT-file" + bytes(200),
        "text file": b"activity\n" * 30,
        "random": RNG.bytes(2000),
        "1 byte": b"x",
    }


def json_text(value: Any) -> bytes:
    return json.dumps(value).encode()


def array_cases(folder: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(name, arguments of the command line) of each case; the files are written into the folder."""
    made: dict[str, bytes] = npy() | npz() | tables() | parquets(folder)
    made |= {f"{name}.mat": data for name, data in mats(folder).items()}
    for name, data in made.items():
        path = folder / name
        path.write_bytes(data)
        for arguments in commands(path):
            yield name, arguments


MAKERS: list[Callable[[Path], Iterator[tuple[str, tuple[str, ...]]]]] = [array_cases]
