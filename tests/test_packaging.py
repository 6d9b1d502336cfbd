"""The wheel has what the library reads at run time, and its metadata caps nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NO_PACKAGE_DATA = {".py", ".pyc"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("setuptools", minversion="77")
    work = tmp_path_factory.mktemp("wheel")
    for name in ("src", "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, work / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, work / name)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        "out",
        ".",
    ]
    done = subprocess.run(build, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = (work / "out").glob("patchclamp-*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_every_file_of_the_package_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    inside = set(wheel.namelist())
    for path in (ROOT / "src" / "patchclamp").rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            assert str(path.relative_to(ROOT / "src")) in inside


@pytest.mark.slow
def test_bundled_data_are_small(wheel: zipfile.ZipFile) -> None:
    data = [item for item in wheel.infolist() if Path(item.filename).suffix not in NO_PACKAGE_DATA]
    assert sum(item.compress_size for item in data) < 2 * 2**20


@pytest.mark.slow
def test_metadata(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(name).decode())
    assert metadata["License-Expression"] == "Apache-2.0"
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
    assert metadata["Requires-Python"] == ">=3.11"


def test_lower_bounds_only() -> None:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    for requirement in (entry for group in groups for entry in group):
        assert not re.search(r"<|==|~=|!=|@", requirement), f"{requirement}: lower bounds only"


def test_every_group_of_the_design_is_there() -> None:
    assert set(PROJECT["optional-dependencies"]) >= {"brain", "explorer", "cluster", "dev", "crosscheck"}


def test_torch_is_constrained_for_installation_alone() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert "torch==2.13.0" in lines
    makefile = (ROOT / "Makefile").read_text()
    for line in makefile.splitlines():
        if "pip install" in line and "--no-deps" not in line:
            assert "-c constraints.txt" in line, line


def test_version_is_the_same_everywhere() -> None:
    import patchclamp

    version = PROJECT["version"]
    assert patchclamp.__version__ == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_licence_text_is_whole() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import sys, patchclamp, patchclamp.app.cli; print([m for m in ('torch', 'transformers', 'zarr') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_root_offers_its_names_and_the_verbs_without_an_import_of_theirs() -> None:
    script = (
        "import sys, patchclamp as pc\n"
        "assert 'torch' not in sys.modules\n"
        "assert pc.measure.METHODS['moments'] is pc.measure.Moments\n"
        "names = [name for name in pc.__all__ if not isinstance(getattr(pc, name), type(sys))]\n"
        "assert 25 <= len(names) <= 30, names\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
