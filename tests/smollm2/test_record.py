"""Recording the embedded model over the bundled sample."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from patchclamp import open_subject
from patchclamp.measure import METHODS
from patchclamp.record import documents, plan, record

pytestmark = pytest.mark.smollm2


@pytest.fixture(scope="module")
def subject():
    return open_subject("smollm2")


def test_real_text_is_recorded_as_the_module_computed_it(subject, tmp_path: Path) -> None:
    entries = [vars(d) for d in documents("sample")][:30]
    said = plan(subject, entries, "mlp_act.3, z.2", probe=False)
    rec = record(subject, entries, "mlp_act.3, z.2", store=tmp_path / "s.zarr", progress=False)
    size = sum(file.stat().st_size for file in (tmp_path / "s.zarr").rglob("*") if file.is_file())
    assert abs(said.bytes - size) < 0.05 * size
    assert rec.manifest["model_fingerprint"] == subject.fingerprint
    for doc in (0, 11, 29):
        run = subject.run(subject.batch(subject.encode([entries[doc]["text"]])), read=rec.sites)
        part = rec.select(where={"doc": doc})
        for site in rec.sites:
            torch.testing.assert_close(part[site][:], run.activity[site][0, 1:], atol=1e-3, rtol=1e-3)
        assert part.samples.label.unique().tolist() == [
            rec.manifest["label_names"].index(entries[doc]["label"])
        ]


def test_all_neurons_into_a_measure(subject) -> None:
    source = [d.text for d in documents("sample")][:6]
    out = record(subject, source, "mlp_act.*", measures=[METHODS["moments"]], progress=False)
    table = out.table("moments")
    assert table.sizes["unit"] == 46_080 and str(table["unit"].values[-1]) == "mlp_act.29[1535]"
    exact = record(subject, source, "mlp_act.29", progress=False)["mlp_act.29"][:].double()
    mean = torch.as_tensor(table["mean"].values[-1536:].copy()).double()
    torch.testing.assert_close(mean, exact.mean(0), atol=1e-6, rtol=1e-5)
