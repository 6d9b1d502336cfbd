"""Hostile tasks, texts and paths, made by a script."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Arguments = tuple[str, tuple[str, ...]]
ITEM = {"clean": "The war lasted from the year 1732 to the year 17", "answers": [" 41"], "foils": [" 20"],
        "corrupted": "The war lasted from the year 1701 to the year 17"}  # fmt: skip


def lines(*entries: Any) -> bytes:
    return (
        "\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries).encode()
        + b"\n"
    )


def items(n: int = 40, **changes: Any) -> list[dict[str, Any]]:
    out = []
    for i in range(n):
        clean, corrupted = (
            f"The war lasted from the year 17{year:02d} to the year 17" for year in (32 + i, 1)
        )
        out.append(ITEM | {"clean": clean, "corrupted": corrupted} | changes)
    return out


def task_files() -> dict[str, bytes]:
    def with_one(**changes: Any) -> bytes:
        return lines(*items()[:20], ITEM | changes, *items()[20:])

    def head(**fields: Any) -> bytes:
        return lines({"task": fields}, *items())

    odd: dict[str, Any] = {
        "null": None, "number": 3, "digits": 10**23, "true": True, "list": [], "object": {}, "empty": "", "space": " ",
        "numbers": [1, 2], "lists": [[" 41"]], "surrogate": "a \ud800 b", "NUL": "a\0b", "escape": "\x1b[31mred", "long": "word " * 5000,
        "newlines": "\n\n", "bidi": "\u202eabc", "float": 1e400,
    }  # fmt: skip
    found = {
        f"{key} {name}": with_one(**{key: value})
        for key in ("clean", "answers", "foils", "corrupted", "group", "split", "template", "spans", "meta")
        for name, value in odd.items()
    }
    for key in ("name", "metric", "corruption", "min_accuracy", "description"):
        for name in ("null", "number", "digits", "list", "surrogate", "escape", "float", "empty", "true"):
            found[f"head {key} {name}"] = head(**{key: odd[name]})
    deep = "[" * 10_000
    found |= {
        "plain": lines(*items()),
        "empty": b"", "blank": b"\n\n \n", "one": lines(ITEM), "two": lines(ITEM, ITEM), "bom": b"\xef\xbb\xbf" + lines(*items()),
        "utf-16": lines(*items()).decode().encode("utf-16"), "latin-1": '{"clean": "größe", "answers": " x", "foils": " y"}'.encode("latin-1"),
        "binary": bytes(range(256)) * 10, "NUL only": b"\0" * 1000, "deep": deep.encode(), "deep whole": (deep + "]" * 10_000).encode(),
        "deep field": ('{"clean": ' + deep + "]" * 10_000 + "}").encode(), "deep objects": ('{"a":' * 10_000 + "1" + "}" * 10_000).encode(),
        "deep meta": lines(*items()[:8], json.dumps(ITEM)[:-1] + ', "meta": {"a": ' + "[" * 900 + "]" * 900 + "}}", *items()[8:]),
        "huge line": lines(*items()[:8], ITEM | {"clean": "word " * 40_000}), "digits": b"1" * 5000, "digits label": lines('{"clean": "a", "answers": ' + "9" * 5000 + "}"),
        "NaN": lines('{"clean": NaN, "answers": Infinity}'), "cut": lines(*items())[:-30], "text": b"hello\n", "list": b"[1, 2]\n", "string": b'"x"\n', "null": b"null\n",
        "array of items": json.dumps(items()).encode(), "head only": lines({"task": {"name": "x"}}), "head last": lines(*items(), {"task": {}}),
        "head twice": lines({"task": {}}, {"task": {}}, *items()), "head list": lines({"task": []}), "head more": lines({"task": {}, "clean": "x"}),
        "no fields": lines({}), "no answers": lines({"clean": "x"}), "no foils": lines({"clean": "x", "answers": " y"}), "unknown field": lines(ITEM | {"labl": 1}),
        "same key": lines('{"clean": "a", "clean": "b", "answers": " 41", "foils": " 20"}'), "odd key": lines({"\ud800": 1}), "escape key": lines({"\x1b[31m": 1}),
        "all alike": lines(*[ITEM] * 40), "same answer and foil": lines(*items(foils=[" 41"])), "nothing in common": lines(*[{"clean": f"a {i}", "answers": " 41", "foils": " 20"} for i in range(40)]),
        "splits one": lines(*items(split="train")), "splits odd": lines(*items(split="other")), "splits some": lines(*items()[:3], *items(split="test")),
        "split test only": lines(*items(split="test")), "groups one": lines(*items(group="g")), "groups long": lines(*[i | {"group": "x" * 50_000} for i in items()]),
        "no contrast": lines(*[{k: v for k, v in i.items() if k != "corrupted"} for i in items()]),
        "spans beyond": lines(*items(spans={"year": [0, 10**6]})), "spans backwards": lines(*items(spans={"year": [9, 3]})), "spans odd": lines(*items(spans={"": [0, 3], "\x1b": [1, 2]})),
        "spans end": lines(*items(spans={"end": [0, 3]})), "spans some": lines(*items(spans={"year": [0, 3]}, corrupted_spans={})), "spans huge": lines(*items(spans={"year": [0, 10**30]})),
        "crossed": lines(*[i | {"group": f"a × {n % 3}"} for n, i in enumerate(items())]),
        "line separators": lines(*items(clean="The war\u2028 lasted from the year 1732\u0085 to the year 17")), "carriage": lines(*items()).replace(b"\n", b"\r\n"), "carriage only": lines(*items()).replace(b"\n", b"\r"),
        "meta odd": lines(*items(meta={"a": 10**400, "b": [None]})),
    }  # fmt: skip
    return {f"{name}.jsonl": data for name, data in found.items()}


def text_files() -> dict[str, bytes]:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    def parquet(**columns: Any) -> bytes:
        file = io.BytesIO()
        pq.write_table(pa.table(columns), file)
        return file.getvalue()

    words = [f"The war lasted from the year {i}." for i in range(30)]
    good = parquet(text=words)
    return {
        "empty.txt": b"", "blank.txt": b"\n \n", "one char.txt": b"x", "two short.txt": b"a\nb\n", "binary.txt": bytes(range(256)) * 20, "NUL.txt": b"a\0b\n" * 20,
        "latin-1.txt": "größe\n".encode("latin-1"), "utf-16.txt": "\n".join(words).encode("utf-16"), "bom.txt": b"\xef\xbb\xbf" + "\n".join(words).encode(), "bom only.txt": b"\xef\xbb\xbf",
        "surrogate.txt": b"\xed\xa0\x80\n", "huge line.txt": b"The war lasted. " * 20_000, "escape.txt": b"\x1b[31mThe war lasted\x1b[0m\n" * 20, "carriage.txt": "\r".join(words).encode(),
        "spaces.txt": "\u3000\u200b\n\u00a0\n".encode(), "combining.txt": ("a" + "\u0301" * 5000).encode(), "nothing known.txt": "☃☃☃\n☂☂☂\n".encode(), "plain.txt": "\n".join(words).encode(),
        "same.txt": b"The war lasted.\n" * 30,
        "empty.jsonl": b"", "digits.jsonl": lines({"text": "a b c", "label": 10**23}), "digits group.jsonl": lines({"text": "a b c", "group": -(10**23)}), "limit.jsonl": lines({"text": "a b c", "label": 2**63}),
        "negative.jsonl": lines({"text": "The war lasted", "label": -1}, {"text": "The war lasted", "label": -5}), "surrogate.jsonl": lines({"text": "The war \ud800 lasted"}), "surrogate label.jsonl": lines({"text": "The war lasted", "label": "\ud800"}),
        "mixed labels.jsonl": lines({"text": "The war", "label": 1}, {"text": "The war", "label": "b"}), "float label.jsonl": lines({"text": "The war", "label": 0.5}), "true label.jsonl": lines({"text": "The war lasted", "label": True}),
        "list label.jsonl": lines({"text": "The war", "label": [1]}), "no text.jsonl": lines({"words": "x"}), "text number.jsonl": lines({"text": 3}), "text null.jsonl": lines({"text": None}), "text list.jsonl": lines({"text": ["a"]}),
        "deep.jsonl": b"[" * 10_000, "deep whole.jsonl": b"[" * 10_000 + b"]" * 10_000, "deep objects.jsonl": b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "digits only.jsonl": b"9" * 5000, "string.jsonl": b'"The war lasted"\n', "numbers.jsonl": b"1\n2\n",
        "NaN.jsonl": b'{"text": NaN}\n', "cut.jsonl": b'{"text": "The w', "binary.jsonl": bytes(range(256)), "NUL.jsonl": b"\0" * 100, "array.jsonl": json.dumps([{"text": w} for w in words]).encode(), "empty texts.jsonl": lines({"text": ""}, {"text": "The war lasted"}),
        "same key.jsonl": b'{"text": "a", "text": "b"}\n', "odd keys.jsonl": lines({"\x1b[31m": 1, "\ud800": 2}), "huge.jsonl": lines({"text": "The war lasted. " * 20_000}), "labels.jsonl": lines(*[{"text": w, "label": "ab"[i % 2]} for i, w in enumerate(words)]),
        "plain.parquet": good, "cut.parquet": good[:-20], "half.parquet": good[: len(good) // 2], "not.parquet": b"hello", "empty.parquet": b"", "magic.parquet": b"PAR1PAR1", "no rows.parquet": parquet(text=pa.array([], pa.string())), "no column.parquet": parquet(words=words),
        "numbers.parquet": parquet(text=[1, 2]), "nulls.parquet": parquet(text=["a b", None]), "bytes.parquet": parquet(text=[b"\xff\xfe"]), "lists.parquet": parquet(text=[["a"]]), "label dates.parquet": parquet(text=words[:2], label=pa.array([1, 2], pa.timestamp("s"))),
        "label half.parquet": parquet(text=words[:2], label=[0.5, 1]), "label uint64.parquet": parquet(text=words[:2], label=pa.array([2**64 - 1, 1], pa.uint64())), "label decimal.parquet": parquet(text=words[:2], label=pa.array([1, 2], pa.decimal128(30))),
        "false text.parquet": good.replace(b"The war", b"\xff\xfe\xfd war")[: len(good)], "page flipped.parquet": good[:40] + b"\xff" * 8 + good[48:], "same names.parquet": twice(words),
    }  # fmt: skip


def twice(words: list[str]) -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(words), pa.array(words)], ["text", "text"]), file)
    return file.getvalue()


def model(folder: Path) -> str:
    """A small language model with a tokenizer of whole words, in a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import task_tokenizer

    tokenizer = task_tokenizer.for_tasks(2)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                         num_key_value_heads=2, max_position_embeddings=128, bos_token_id=1, eos_token_id=1)  # fmt: skip
    LlamaForCausalLM(config).eval().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return str(folder / "model")


def task_cases(folder: Path) -> Iterator[Arguments]:
    own = model(folder)
    (folder / "tasks").mkdir()
    for name, data in task_files().items():
        path = folder / "tasks" / name
        path.write_bytes(data)
        yield f"task {name}", ("tasks", str(path), "--model", own)
        if "head " not in name:
            yield (
                f"task {name}",
                ("effect", str(path), "mlp_act.0[3]", "--model", own, "--n-control", "3", "--items", "8"),
            )


def text_cases(folder: Path) -> Iterator[Arguments]:
    own = model(folder)
    (folder / "texts").mkdir()
    for number, (name, data) in enumerate(text_files().items()):
        path = folder / "texts" / name
        path.write_bytes(data)
        yield f"text {name}", ("measure", "mlp_act.0", "--text", str(path), "--model", own)
        yield (
            f"text {name}",
            (
                "record",
                "mlp_act.0",
                "--text",
                str(path),
                "--model",
                own,
                "--out",
                str(folder / f"out{number}"),
            ),
        )
        yield f"text {name}", ("describe", "mlp_act.0[3]", "--text", str(path), "--model", own)
        yield (
            f"text {name}",
            (
                "decompose",
                "mlp_act.0",
                "--text",
                str(path),
                "--model",
                own,
                "--method",
                "pca",
                "--features",
                "3",
            ),
        )
        if not name.endswith(".txt"):
            yield (
                f"text {name}",
                (
                    "study",
                    "--texts",
                    str(path),
                    "--model",
                    own,
                    "--sites",
                    "mlp_act.0",
                    "--items",
                    "8",
                    "--out",
                    str(folder / f"study{number}"),
                ),
            )


def path_cases(folder: Path) -> Iterator[Arguments]:  # noqa: PLR0915 - a list of paths
    import numpy as np

    own = model(folder)
    where = folder / "paths"
    where.mkdir()
    good = where / "good.npy"
    np.save(good, np.random.default_rng(0).normal(size=(60, 4)))
    names = [
        b"new\nline.npy",
        b"\x1b[31mred.npy",
        b"\xff\xfe.npy",
        "\u202ebidi.npy".encode(),
        b"[bold]x[nothing].npy",
        b" .npy",
        b"-x.npy",
        b"a\rb.npy",
        b"\x07bell.npy",
    ]
    for name in names:
        path = Path(os.fsdecode(os.fsencode(str(where)) + b"/" + name))
        path.write_bytes(good.read_bytes())
        lost = Path(os.fsdecode(os.fsencode(str(where)) + b"/lost" + name))
        text = path.with_suffix(".txt")
        text.write_bytes(b"The war lasted\n" * 30)
        for command in (("open", str(path)), ("open", str(path), "--what", "activity"), ("open", str(path), "--json"), ("measure", str(path)), ("open", str(lost)), ("measure", str(lost)),
                        ("tasks", str(path), "--model", own), ("check", str(path)), ("measure", "mlp_act.0", "--text", str(text), "--model", own),
                        ("describe", "mlp_act.0[1]", "--text", str(lost), "--model", own), ("verify", str(path)), ("study", "--texts", str(path), "--model", own)):  # fmt: skip
            yield f"path {name!r}", command
    (where / "folder").mkdir()
    (where / "folder.npy").mkdir()
    (where / "folder.jsonl").mkdir()
    (where / "folder.txt").mkdir()
    (where / "folder.zarr").mkdir()
    (where / "folder.zarr" / "zarr.json").mkdir()
    (where / "broken.npy").symlink_to(where / "nowhere")
    (where / "broken.txt").symlink_to(where / "nowhere")
    (where / "broken.jsonl").symlink_to(where / "nowhere")
    (where / "circle.npy").symlink_to(where / "circle.npy")
    (where / "circle.txt").symlink_to(where / "circle.txt")
    (where / "circle.jsonl").symlink_to(where / "circle.jsonl")
    for ending in (
        "npy",
        "npz",
        "mat",
        "csv",
        "nii",
        "nwb",
        "fif",
        "jsonl",
        "txt",
        "parquet",
        "zarr",
        "json",
    ):
        os.mkfifo(where / f"pipe.{ending}")
    (where / "null.npy").symlink_to("/dev/null")
    (where / "zero.txt").symlink_to("/dev/zero")
    (where / "zero.jsonl").symlink_to("/dev/zero")
    (where / "zero.csv").symlink_to("/dev/zero")
    (where / "proc.txt").symlink_to("/proc/self/mem")
    (where / "foreign").mkdir()
    (where / "foreign" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    (where / "two").mkdir()
    (where / "two" / ".zgroup").write_text('{"zarr_format": 2}')
    (where / "pipe.store").mkdir()
    os.mkfifo(where / "pipe.store" / "zarr.json")
    long = "x" * 200 + ".npy"
    paths = [
        str(path)
        for path in sorted(where.iterdir())
        if path.name.split(".")[0]
        in ("folder", "broken", "circle", "pipe", "null", "zero", "proc", "foreign", "two")
    ]
    for path in [
        *paths,
        str(where / long),
        str(good / "inside.npy"),
        "",
        "/",
        "\0.npy",
        "a\0.txt",
        "~nobody/x.npy",
    ]:
        yield f"path {path}", ("open", path)
        yield f"path {path}", ("measure", path)
        yield f"path {path}", ("check", path)
        yield f"path {path}", ("verify", path)
        yield f"path {path}", ("tasks", path, "--model", own) if path else ("open", path, "--json")
        yield f"path {path}", ("measure", "mlp_act.0", "--text", path, "--model", own)
        yield f"path {path}", ("describe", "mlp_act.0[1]", "--text", path, "--model", own)
        yield (
            f"path {path}",
            (
                "record",
                "mlp_act.0",
                "--out",
                str(Path(path) / "x") if "\0" not in path else path,
                "--model",
                own,
                "--text",
                str(where / "lost.txt"),
            ),
        )
    for out in (
        str(good),
        str(good / "x"),
        "/proc/x",
        "/dev/null",
        "/dev/null/x",
        str(where / "broken.npy"),
        str(where / "circle.npy"),
        str(where / "pipe.npy"),
        str(where / long),
        "\0",
    ):
        yield f"out {out}", ("measure", str(good), "--out", out)
        yield (
            f"out {out}",
            ("record", "mlp_act.0", "--model", own, "--out", out, "--text", str(where / "-x.txt")),
        )
        yield (
            f"out {out}",
            (
                "decompose",
                "mlp_act.0",
                "--model",
                own,
                "--out",
                out,
                "--text",
                str(where / "-x.txt"),
                "--method",
                "pca",
                "--features",
                "3",
            ),
        )
    for option, values in {
        "--format": ("", "x", "nwb", "mat", "table", "nifti", "meeg", "numpy"),
        "--what": ("", "x", "\x1b", "activity"),
    }.items():
        for value in values:
            yield f"{option} {value!r}", ("open", str(good), option, value)
    for measures in ("", ",", "x", "moments,moments", "\x1b[31m"):
        yield f"measures {measures!r}", ("measure", str(good), "--measures", measures)
    for sort in ("x", "\x1b[31m"):
        yield f"sort {sort!r}", ("measure", str(good), "--sort", sort)


MAKERS = [task_cases, text_cases, path_cases]
