"""Hostile files of recorded activity, made by a script: HDF5 (MATLAB 7.3, NWB), NIfTI and our own stores."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

RNG = np.random.default_rng(0)
ACTIVITY = RNG.normal(size=(60, 4))
Arguments = tuple[str, tuple[str, ...]]


def mat73(folder: Path) -> Iterator[Path]:  # noqa: PLR0915 - a list of files
    """Links in circles, references to oneself and to nothing, classes that are not what they say."""
    import h5py

    def made(name: str, fill: Any) -> Path:
        path = folder / f"{name}.mat"
        with h5py.File(path, "w", userblock_size=512) as file:
            data = file.create_dataset("activity", data=ACTIVITY.T)
            data.attrs["MATLAB_class"] = np.bytes_("double")
            fill(file)
        with path.open("r+b") as raw:
            raw.write(b"MATLAB 7.3 MAT-file")
        return path

    def reference(file: Any, name: str, targets: list[Any], cls: str = "cell") -> Any:
        data = file.create_dataset(name, (len(targets), 1), dtype=h5py.ref_dtype)
        for i, target in enumerate(targets):
            if target is not None:
                data[i, 0] = target.ref
        data.attrs["MATLAB_class"] = np.bytes_(cls)
        return data

    def soft_circle(file: Any) -> None:
        file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")

    def soft_up(file: Any) -> None:
        file.create_group("s")["up"] = h5py.SoftLink("/s")
        file["s"]["all"] = h5py.SoftLink("/")

    def hard_up(file: Any) -> None:
        group = file.create_group("s")
        group["up"], group["all"] = group, file["/"]

    def fans(file: Any) -> None:
        """Twenty groups, each with ten links to the next: 10^20 paths."""
        groups = [file.create_group(f"g{i}") for i in range(20)]
        for one, after in zip(groups, groups[1:], strict=False):
            for i in range(10):
                one[f"x{i}"] = after

    def itself(file: Any) -> None:
        data = reference(file, "c", [None])
        data[0, 0] = data.ref

    def each_other(file: Any) -> None:
        a, b = reference(file, "a", [None]), reference(file, "b", [None])
        a[0, 0], b[0, 0] = b.ref, a.ref

    def tree(file: Any) -> None:
        """Cells of ten references to the next cell: 10^12 ends from 13 data sets."""
        below = file.create_dataset("#refs#/end", data=np.zeros((1, 3)))
        for i in range(12):
            below = reference(file, f"#refs#/c{i}", [below] * 10)
        reference(file, "spikes", [below])

    def deep(file: Any) -> None:
        group = file
        for _ in range(3000):
            group = group.create_group("g")
        group["x"] = np.zeros(3)

    def marked(cls: str, data: Any) -> Any:
        def fill(file: Any) -> None:
            file.create_dataset("x", data=data).attrs["MATLAB_class"] = np.bytes_(cls)

        return fill

    def empty_mark(file: Any) -> None:
        data = file.create_dataset("x", data=np.array([10**9, 10**9], "u8"))
        data.attrs["MATLAB_empty"] = np.uint8(1)

    def empty_text(file: Any) -> None:
        file.create_dataset("x", data=np.array([1.5, np.nan])).attrs["MATLAB_empty"] = "yes"

    def null_space(file: Any) -> None:
        file.create_dataset("x", data=h5py.Empty("f8"))

    def region(file: Any) -> None:
        data = file.create_dataset("x", (1,), dtype=h5py.regionref_dtype)
        data[0] = file["activity"].regionref[0:1]

    yield made("plain", lambda f: None)
    yield made("soft circle", soft_circle)
    yield made("soft up", soft_up)
    yield made("hard up", hard_up)
    yield made("fans", fans)
    yield made("dangling", lambda f: f.__setitem__("a", h5py.SoftLink("/nowhere")))
    yield made("cell of itself", itself)
    yield made("cells of each other", each_other)
    yield made("tree of cells", tree)
    yield made("cell of nothing", lambda f: reference(f, "spikes", [None, None]))
    yield made("cell of a group", lambda f: reference(f, "spikes", [f.create_group("g")]))
    yield made("cell of all", lambda f: reference(f, "spikes", [f]))
    yield made("deep", deep)
    yield made("char of floats", marked("char", np.array([1e9, -1.0])))
    yield made("char beyond", marked("char", np.array([2**31], "u8")))
    yield made("char negative", marked("char", np.array([-5])))
    yield made("char surrogate", marked("char", np.array([0xD800], "u2")))
    yield made("class of bytes", marked("\\xff", np.zeros((1, 3))))
    yield made("empty mark", empty_mark)
    yield made("empty text", empty_text)
    yield made("null space", null_space)
    yield made("region", region)
    yield made("strings", lambda f: f.create_dataset("x", data=["a", "b"], dtype=h5py.string_dtype()))
    yield made("bytes", lambda f: f.create_dataset("x", data=np.array([b"a"])))
    yield made("compound", lambda f: f.create_dataset("x", data=np.zeros(3, [("a", "f8")])))
    yield made("complex", lambda f: f.create_dataset("x", data=np.zeros(3, "c16")))
    yield made("enum", lambda f: f.create_dataset("x", data=np.zeros(3, h5py.enum_dtype({"A": 0}))))
    yield made("0-d", lambda f: f.create_dataset("x", data=3.0))
    yield made("zero size", lambda f: f.create_dataset("x", data=np.zeros((0, 3))))
    yield made("odd names", lambda f: f.create_dataset("\x1b[31m\nred", data=np.zeros((1, 60))))
    yield made("named type", lambda f: f.__setitem__("t", np.dtype("f8")))
    path = folder / "filtered.mat"
    with h5py.File(path, "w") as file:
        file.create_dataset("activity", data=ACTIVITY.T, chunks=(4, 30), compression="gzip", fletcher32=True)
    data = bytearray(path.read_bytes())
    data[-200] ^= 0xFF
    path.write_bytes(bytes(data))
    yield path


def nwb_session(folder: Path) -> Path:
    import pynwb

    file = pynwb.NWBFile("a test", "id-1", datetime(2024, 1, 1, tzinfo=UTC))
    file.add_unit_column("region", "where")
    for i in range(3):
        file.add_unit(spike_times=np.sort(RNG.uniform(0, 20, 5 + i)), region="CA1")
    for i in range(4):
        file.add_trial(start_time=4.0 * i, stop_time=4.0 * i + 3)
    series = pynwb.TimeSeries("speed", data=np.arange(100.0), unit="cm/s", rate=5.0)
    file.add_acquisition(series)
    wide = pynwb.TimeSeries("lfp", data=RNG.normal(size=(100, 70)), unit="V", timestamps=np.arange(100.0))
    file.add_acquisition(wide)
    path = folder / "session.nwb"
    with pynwb.NWBHDF5IO(str(path), "w") as io:
        io.write(file)
    return path


def nwbs(folder: Path) -> Iterator[Path]:
    """Sessions of which something is taken out, turned or replaced with h5py."""
    import h5py

    plain = nwb_session(folder)
    yield plain

    def replaced(file: Any, name: str, data: Any) -> None:
        kept = dict(file[name].attrs)
        del file[name]
        made = file.create_dataset(name, data=data)
        for key, value in kept.items():
            made.attrs[key] = value

    def gone(name: str) -> Any:
        return lambda f: f.__delitem__(name)

    def mark(name: str, key: str, value: Any) -> Any:
        return lambda f: f[name].attrs.__setitem__(key, value)

    edits: dict[str, Any] = {
        f"no {name.replace('/', ' ')}": gone(name)
        for name in (
            "units/spike_times", "units/spike_times_index", "units/id", "units/region", "identifier", "session_start_time",
            "session_description", "file_create_date", "timestamps_reference_time", "acquisition/speed/data",
            "acquisition/speed/starting_time", "acquisition/lfp/timestamps", "intervals/trials/stop_time", "intervals/trials/id",
            "intervals/trials/start_time", "specifications", "general",
        )
    }  # fmt: skip
    edits |= {
        "index backwards": lambda f: replaced(f, "units/spike_times_index", np.array([11, 5, 18])),
        "index negative": lambda f: replaced(f, "units/spike_times_index", np.array([-5, 3, 18])),
        "index short": lambda f: replaced(f, "units/spike_times_index", np.array([5])),
        "index text": lambda f: replaced(f, "units/spike_times_index", ["a", "b", "c"]),
        "index floats": lambda f: replaced(f, "units/spike_times_index", np.array([5.5, 11, 18])),
        "index twice as deep": lambda f: replaced(f, "units/spike_times_index", np.zeros((3, 2), int)),
        "index 0-d": lambda f: replaced(f, "units/spike_times_index", 18),
        "times text": lambda f: replaced(f, "units/spike_times", ["x"] * 18),
        "times 2-d": lambda f: replaced(f, "units/spike_times", np.zeros((18, 2))),
        "times nan": lambda f: replaced(f, "units/spike_times", np.full(18, np.nan)),
        "region short": lambda f: replaced(f, "units/region", ["CA1"]),
        "region bytes": lambda f: replaced(f, "units/region", np.array([b"\xff\xfe"] * 3)),
        "ids text": lambda f: replaced(f, "units/id", ["a", "b", "c"]),
        "trials text": lambda f: replaced(f, "intervals/trials/start_time", ["a"] * 4),
        "trials nan": lambda f: replaced(f, "intervals/trials/start_time", np.full(4, np.nan)),
        "trials short": lambda f: replaced(f, "intervals/trials/stop_time", np.zeros(2)),
        "timestamps short": lambda f: replaced(f, "acquisition/lfp/timestamps", np.arange(7.0)),
        "timestamps text": lambda f: replaced(f, "acquisition/lfp/timestamps", ["x"] * 100),
        "timestamps nan": lambda f: replaced(f, "acquisition/lfp/timestamps", np.full(100, np.nan)),
        "data 3-d": lambda f: replaced(f, "acquisition/lfp/data", np.zeros((100, 7, 10))),
        "data 0-d": lambda f: replaced(f, "acquisition/lfp/data", 3.0),
        "data none": lambda f: replaced(f, "acquisition/lfp/data", np.zeros((0, 70))),
        "data complex": lambda f: replaced(f, "acquisition/lfp/data", np.zeros((100, 70), "c16")),
        "rate zero": mark("acquisition/speed/starting_time", "rate", 0.0),
        "rate text": mark("acquisition/speed/starting_time", "rate", "often"),
        "rate nan": mark("acquisition/speed/starting_time", "rate", np.nan),
        "rate negative": mark("acquisition/speed/starting_time", "rate", -5.0),
        "conversion nan": mark("acquisition/lfp/data", "conversion", np.nan),
        "conversion text": mark("acquisition/lfp/data", "conversion", "x"),
        "colnames odd": mark("units", "colnames", np.array([1, 2])),
        "colnames lost": mark("units", "colnames", np.array(["nowhere"], object)),
        "type odd": mark("units", "neurodata_type", "Nonsense"),
        "type of a class": mark("acquisition/speed", "neurodata_type", "NWBFile"),
        "namespace odd": mark("units", "namespace", "nonsense"),
        "version odd": mark("/", "nwb_version", 3),
        "no version": lambda f: f.attrs.__delitem__("nwb_version"),
        "circle": lambda f: f["acquisition"].__setitem__("again", f["acquisition"]),
        "soft circle": lambda f: f["acquisition"].__setitem__("again", h5py.SoftLink("/acquisition/again")),
        "itself": lambda f: f["acquisition"].__setitem__("all", f["/"]),
        "date odd": lambda f: replaced(f, "session_start_time", "yesterday"),
        "specification odd": lambda f: [
            replaced(f, f"{one.name}/namespace", "{" * 5000) for one in f["specifications/core"].values()
        ],
    }  # fmt: skip
    for name, edit in edits.items():
        path = folder / f"{name}.nwb"
        shutil.copy(plain, path)
        with h5py.File(path, "r+") as file:
            edit(file)
        yield path
    other = folder / "plain hdf5.nwb"
    with h5py.File(other, "w") as file:
        file["x"] = ACTIVITY
    yield other
    whole = plain.read_bytes()
    for name, data in {
        "half": whole[: len(whole) // 2],
        "head": whole[:600],
        "magic": whole[:8],
        "zeros": whole[:2000] + bytes(4000) + whole[6000:],
        "tail": whole[:-1],
        "text": b"session\n" * 50,
    }.items():
        path = folder / f"{name}.nwb"
        path.write_bytes(data)
        yield path


def niftis(folder: Path) -> Iterator[Path]:
    """Heads with odd entries, at the offsets of the format (little-endian NIfTI-1)."""
    import nibabel

    plain = folder / "plain.nii"
    nibabel.save(
        nibabel.Nifti1Image(RNG.normal(size=(4, 3, 2, 10)).astype("f4"), np.diag([3.0, 3, 3, 1])), plain
    )
    data = plain.read_bytes()
    edits: dict[str, tuple[int, str, tuple[Any, ...]]] = {
        "dtype 0": (70, "<h", (0,)), "dtype 1": (70, "<h", (1,)), "dtype 9999": (70, "<h", (9999,)),
        "dtype -1": (70, "<h", (-1,)), "dtype rgb": (70, "<h", (128,)), "dtype complex": (70, "<h", (32,)),
        "dtype long double": (70, "<h", (1536,)), "dtype int8": (70, "<h", (256,)), "bits": (72, "<h", (7,)),
        "0 dims": (40, "<h", (0,)), "9 dims": (40, "<h", (9,)), "7 dims": (40, "<h", (7,)), "-3 dims": (40, "<h", (-3,)),
        "1 dim": (40, "<h", (1,)), "3 dims": (40, "<h", (3,)), "5 dims": (40, "<h", (5,)),
        "dim 0": (42, "<h", (0,)), "dim -4": (42, "<h", (-4,)), "time 0": (48, "<h", (0,)), "time -1": (48, "<h", (-1,)),
        "more times": (48, "<h", (11,)), "dims huge": (42, "<4h", (32767,) * 4),
        "offset 0": (108, "<f", (0.0,)), "offset nan": (108, "<f", (float("nan"),)), "offset huge": (108, "<f", (1e30,)),
        "offset -1": (108, "<f", (-1.0,)), "offset 353": (108, "<f", (353.0,)),
        "slope nan": (112, "<f", (float("nan"),)), "slope 0": (112, "<f", (0.0,)), "slope inf": (112, "<f", (float("inf"),)),
        "inter inf": (116, "<f", (float("inf"),)), "inter nan": (116, "<f", (float("nan"),)),
        "zooms 0": (76, "<8f", (0.0,) * 8), "zooms nan": (76, "<8f", (float("nan"),) * 8), "zooms -1": (76, "<8f", (-1.0,) * 8),
        "tr nan": (92, "<f", (float("nan"),)), "tr huge": (92, "<f", (1e30,)), "units": (123, "<B", (255,)),
        "size of head": (0, "<i", (349,)), "sform nan": (280, "<12f", (float("nan"),) * 12), "sform 0": (280, "<12f", (0.0,) * 12),
        "codes": (252, "<2h", (-7, 99)), "magic": (344, "4s", (b"xyz\0",)), "magic pair": (344, "4s", (b"ni1\0",)),
        "extension": (348, "4s", (b"\1\0\0\0",)), "quaternion": (256, "<3f", (9.0, 9.0, 9.0)),
    }  # fmt: skip
    for name, (place, kind, values) in edits.items():
        copy = bytearray(data)
        struct.pack_into(kind, copy, place, *values)
        (folder / f"{name}.nii").write_bytes(bytes(copy))
        yield folder / f"{name}.nii"
    nan = np.full((4, 3, 2, 10), np.nan, "f4")
    nibabel.save(nibabel.Nifti1Image(nan, np.eye(4)), folder / "nan all.nii")
    yield folder / "nan all.nii"
    flat = np.ones((4, 3, 2, 10), "f4")
    nibabel.save(nibabel.Nifti1Image(flat, np.eye(4)), folder / "flat.nii")
    yield folder / "flat.nii"
    sides: dict[str, tuple[str, bytes]] = {
        "json list": ("bold.json", b"[1]"), "json text": ("bold.json", b"{not"), "json deep": ("bold.json", b"[" * 100000),
        "json tr text": ("bold.json", b'{"RepetitionTime": "two"}'), "json tr list": ("bold.json", b'{"RepetitionTime": [2]}'),
        "json tr nan": ("bold.json", b'{"RepetitionTime": NaN}'), "json tr digits": ("bold.json", b'{"RepetitionTime": ' + b"9" * 5000 + b"}"),
        "json bytes": ("bold.json", b"\xff\xfe{"), "json bom": ("bold.json", b'\xef\xbb\xbf{"RepetitionTime": 2}'),
        "json null": ("bold.json", b'{"RepetitionTime": null}'),
        "events empty": ("events.tsv", b""), "events none": ("events.tsv", b"onset\tduration\n"),
        "events text": ("events.tsv", b"onset\tduration\nsoon\t1\n"), "events nan": ("events.tsv", b"onset\tduration\nn/a\t1\n"),
        "events bytes": ("events.tsv", b"\xff\xfe\x00"), "events commas": ("events.tsv", b"onset,duration\n1,2\n"),
        "events ragged": ("events.tsv", b"onset\tduration\n1\t2\n1\t2\t3\t4\n"),
        "events duration": ("events.tsv", b"onset\tduration\ttrial_type\n1\tlong\ta\n2\t\tb\n"),
        "events labels": ("events.tsv", b"onset\tduration\ttrial_type\n1\t2\t3\n4\t2\t\n"),
        "events outside": ("events.tsv", b"onset\tduration\ttrial_type\n1e9\t2\ta\n"),
    }  # fmt: skip
    for name, (ending, text) in sides.items():
        (folder / f"sub-{name.replace(' ', '')}_{ending}").write_bytes(text)
        path = folder / f"sub-{name.replace(' ', '')}_bold.nii"
        copy = bytearray(data)
        struct.pack_into("<f", copy, 92, 2.0)
        path.write_bytes(bytes(copy))
        yield path


def of(maker: Any, *, check: bool = False) -> Any:
    def cases(folder: Path) -> Iterator[Arguments]:
        folder = folder / maker.__name__
        folder.mkdir()
        for path in maker(folder):
            commands = [("open", str(path)), ("measure", str(path))]
            if path.suffix != ".nii":
                commands.insert(
                    1, ("open", str(path), "--what", "lfp" if path.suffix == ".nwb" else "activity")
                )
            if path.suffix == ".nwb":
                commands.insert(1, ("open", str(path), "--what", "units"))
            if check:
                commands = [("measure", str(path)), ("check", str(path))]
            for one in commands:
                yield f"{maker.__name__} {path.name}", one

    cases.__name__ = maker.__name__
    return cases


MAKERS = [of(mat73), of(nwbs), of(niftis)]
