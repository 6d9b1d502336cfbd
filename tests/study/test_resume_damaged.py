"""What a killed study left, damaged: it goes on, or is refused in a line that names the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import planted
from hostile import ODD, as_json, spoiled, spots, with_value, without
from patchclamp import PatchclampError
from patchclamp.study import run_study
from stopped import NAMES, SMALL, Stop, stopping

pytestmark = pytest.mark.slow
AT = NAMES[3]


@pytest.fixture(scope="module")
def subject() -> Any:
    return planted.subject()


@pytest.fixture(scope="module")
def left(subject: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was stopped at its fourth stage."""
    folder = tmp_path_factory.mktemp("left") / "out"
    with pytest.raises(Stop):
        run_study(subject, planted.task(), folder, options=SMALL, progress=stopping(AT, []))
    return folder


def outcome(subject: Any, folder: Path) -> str:
    """The refusal, or an empty text where the study goes on."""
    try:
        run_study(subject, planted.task(), folder, options=SMALL, progress=stopping(AT, []))
    except Stop:
        return ""
    except PatchclampError as error:
        return str(error)
    raise AssertionError("it ran past the stage at which it stops")


def spoilt_notes(text: str) -> list[bytes]:
    """A note with odd values in its places, spread evenly, and cut and turned as files are."""
    document = json.loads(text)
    places = [spot for spot in spots(document["note"], ("note",)) if len(spot) < 7]
    some = [places[i * len(places) // 40] for i in range(40)]
    odd = [as_json(with_value(document, spot, ODD[i % len(ODD)])) for i, spot in enumerate(some) if spot]
    gone = [as_json(without(document, spot)) for spot in some[::4]]
    return [*odd, *gone, *spoiled(text.encode()).values()]


def test_a_damaged_stage_is_named(subject: Any, left: Path, tmp_path: Path) -> None:
    shutil.copytree(left, tmp_path / "out")
    assert outcome(subject, tmp_path / "out") == ""
    note = tmp_path / "out" / ".stages" / "stage-1.json"
    whole, refused = note.read_bytes(), 0
    for spoilt in spoilt_notes(whole.decode()):
        note.write_bytes(spoilt)
        said = outcome(subject, tmp_path / "out")
        refused += bool(said)
        assert not said or (".stages" in said and len(said) < 700), said
    assert refused > 20
    note.write_bytes(whole)
    for tensors in note.parent.glob("*.safetensors"):
        kept = tensors.read_bytes()
        for spoilt in spoiled(kept).values():
            tensors.write_bytes(spoilt)
            said = outcome(subject, tmp_path / "out")
            assert not said or ".stages" in said, said
        tensors.write_bytes(kept)
