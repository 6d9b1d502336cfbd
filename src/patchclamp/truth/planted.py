"""Planted dictionaries: activity made of known sparse features, with their exact effects on a linear read-out.

    activity = codes @ directions + offset + noise           (samples, units)
    read-out = r . activity, so that feature i adds exactly w_i codes_i, with w = directions @ r

Directions have length 1 and codes are not negative. The difficulties that real activity brings can be dialled one at
a time: features that point the same way (coherence), children that occur only with their parent (which sparse
dictionaries absorb), features that occur together, very unequal frequencies, one feature that is nearly always on,
units that never move, samples of very unequal size. r is chosen orthogonal to some of the directions: those features
are *idle*, they are there and have no effect.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.base.seeds import numpy_rng
from patchclamp.nouns.recording.recording import Recording
from patchclamp.nouns.recording.samples import Samples
from patchclamp.subjects.module import TensorTask, TorchModule
from patchclamp.truth.base import QUANTITIES, Circuit, Planted, enter
from patchclamp.truth.wiring import linear

Array = NDArray[np.float64]
SITE = "planted"


@dataclass(frozen=True)
class PlantSettings:
    """What is planted.

    Parameters
    ----------
    n_samples, n_units, n_features
        Size. More features than units is superposition.
    density
        Mean share of samples in which a feature is active.
    spread
        Standard deviation of log frequency over features (log-normal frequencies); 0 makes all equal.
    coherence
        Cosine of any two directions of a family of four, exactly; between families directions are random.
    parents
        Number of features that have a child: feature ``parents + i`` is active only when feature i is, and then half
        of the time.
    pairs
        Number of pairs of features, the last ones, that occur together.
    pair_correlation
        Correlation of being active within a pair; both have the same frequency.
    dense
        Whether feature 0 is active in 95 % of samples.
    dead_units
        Number of units, the last ones, on which no feature and no noise writes.
    tail
        Standard deviation of the log of each sample's scale (log-normal, median 1), which multiplies all its codes.
    magnitude
        Law of an active code: ``"normal"`` (|N(0, 1)| + 0.3) or ``"exponential"`` (mean 1, + 0.3).
    noise
        Standard deviation of Gaussian noise in every live unit.
    idle
        Number of features without effect on the read-out; less than the number of live units.
    """

    n_samples: int = 4096
    n_units: int = 32
    n_features: int = 48
    density: float = 0.05
    spread: float = 0.0
    coherence: float = 0.0
    parents: int = 0
    pairs: int = 0
    pair_correlation: float = 0.6
    dense: bool = False
    dead_units: int = 0
    tail: float = 0.0
    magnitude: str = "normal"
    noise: float = 0.02
    idle: int = 16

    def __post_init__(self) -> None:
        live = self.n_units - self.dead_units
        if live < 5:
            raise PatchclampError(f"planted: {live} live units; at least 5 are needed for families of four")
        if not 0 <= self.coherence < 1:
            raise PatchclampError(f"planted: coherence {self.coherence} is outside 0..1 (1 excluded)")
        if not 0 < self.density <= 0.5:
            raise PatchclampError(f"planted: density {self.density} is outside 0..0.5 (0 excluded)")
        if not 0 <= self.pair_correlation <= 1:
            raise PatchclampError(f"planted: pair_correlation {self.pair_correlation} is outside 0..1")
        if 2 * self.parents + 2 * self.pairs > self.n_features:
            raise PatchclampError(
                f"planted: {self.parents} parents with a child each and {self.pairs} pairs need "
                f"{2 * self.parents + 2 * self.pairs} features, and there are {self.n_features}"
            )
        if self.idle >= min(live, self.n_features):
            raise PatchclampError(
                f"planted: {self.idle} idle features of {self.n_features} with {live} live units; no read-out is "
                f"orthogonal to so many directions and not to the rest, take at most {min(live, self.n_features) - 1}"
            )
        if self.magnitude not in ("normal", "exponential"):
            raise PatchclampError(f"planted: magnitude {self.magnitude!r}; choose normal or exponential")


def plant(settings: PlantSettings | None = None, seed: int = 0) -> Planted:
    """Make activity out of known features.

    Parameters
    ----------
    settings
        What is planted; by default 48 features of equal frequency in 32 units.
    seed
        Of everything; the same seed gives the same arrays, bit for bit.

    Returns
    -------
    Planted
        `recording` has the site ``planted`` (samples, units), documents (groups) of 16 samples. `data`: ``offset``,
        ``readout_units`` (r), ``frequency`` (share of samples in which a feature is active), ``hierarchy``
        ((parent, child) ...), ``pairs``, ``dense``, ``dead_units``, ``idle``, ``coherence``, ``noise``, ``settings``.

    Raises
    ------
    PatchclampError
        For settings that cannot be met.

    Notes
    -----
    Recipe after the usual synthetic test of sparse dictionaries (Sharkey et al. 2022; Chanin et al. 2024 for
    children that are absorbed by their parent).

    Examples
    --------
    >>> system = plant(PlantSettings(n_samples=200, coherence=0.6), seed=1)
    >>> tuple(system.directions.shape), round(float(system.directions[0] @ system.directions[3]), 4)
    ((48, 32), 0.6)
    """
    settings = settings or PlantSettings()
    rng = numpy_rng([seed, 4057])
    directions = _directions(rng, settings)
    codes = _codes(rng, settings)
    live = settings.n_units - settings.dead_units
    offset = np.concatenate([rng.normal(0, 0.2, live), np.zeros(settings.dead_units)])
    idle = np.sort(rng.choice(settings.n_features, settings.idle, replace=False))
    readout_units = _readout(rng, directions, idle, live)
    noise = np.zeros((settings.n_samples, settings.n_units))
    noise[:, :live] = settings.noise * rng.normal(size=(settings.n_samples, live))
    readout = directions @ readout_units
    readout[idle] = 0.0  # what is left there is rounding
    activity = codes @ directions + offset + noise
    facts = {
        "offset": torch.from_numpy(offset).float(),
        "readout_units": torch.from_numpy(readout_units).float(),
        "frequency": (codes > 0).mean(0).tolist(),
        "hierarchy": [(i, settings.parents + i) for i in range(settings.parents)],
        "pairs": _pairs(settings),
        "dense": [0] if settings.dense else [],
        "dead_units": list(range(live, settings.n_units)),
        "idle": idle.tolist(),
        "coherence": settings.coherence,
        "noise": settings.noise,
        "settings": settings,
    }
    tensors = [torch.from_numpy(x).float() for x in (directions, codes, readout)]
    return Planted(_record(activity, settings), tensors[0], tensors[1], tensors[2], facts)


def _directions(rng: np.random.Generator, settings: PlantSettings) -> Array:
    """Families of four: sqrt(c) b + sqrt(1 - c) e_k with b, e_1 .. e_4 orthonormal have cosine c with each other."""
    live = settings.n_units - settings.dead_units
    rows = []
    for _ in range(-(-settings.n_features // 4)):
        basis = np.linalg.qr(rng.normal(size=(live, 5)))[0].T
        rows.append(np.sqrt(settings.coherence) * basis[:1] + np.sqrt(1 - settings.coherence) * basis[1:])
    directions = np.zeros((settings.n_features, settings.n_units))
    directions[:, :live] = np.concatenate(rows)[: settings.n_features]
    return directions


def _pairs(settings: PlantSettings) -> list[tuple[int, int]]:
    first = settings.n_features - 2 * settings.pairs
    return [(first + 2 * k, first + 2 * k + 1) for k in range(settings.pairs)]


def _codes(rng: np.random.Generator, settings: PlantSettings) -> Array:
    shape = (settings.n_samples, settings.n_features)
    wave = rng.normal(size=settings.n_features)
    frequency = settings.density * np.exp(settings.spread * wave - settings.spread**2 / 2)
    frequency = np.clip(frequency, 0.002, 0.5)
    frequency[: settings.parents] = np.minimum(2 * frequency[: settings.parents], 0.5)
    if settings.dense:
        frequency[0] = 0.95
    for first, second in _pairs(settings):
        frequency[second] = frequency[first]
    active = rng.random(shape) < frequency
    for parent in range(settings.parents):
        child = settings.parents + parent
        active[:, child] = active[:, parent] & (rng.random(settings.n_samples) < 0.5)
    for first, second in _pairs(settings):
        # A copy with probability rho, else a fresh draw of the same frequency: the correlation is exactly rho.
        copied = rng.random(settings.n_samples) < settings.pair_correlation
        active[:, second] = np.where(copied, active[:, first], active[:, second])
    size = np.abs(rng.normal(size=shape)) if settings.magnitude == "normal" else rng.exponential(size=shape)
    scale = np.exp(settings.tail * rng.normal(size=(settings.n_samples, 1)))
    return np.where(active, (size + 0.3) * scale, 0.0)


def _readout(rng: np.random.Generator, directions: Array, idle: NDArray[np.int64], live: int) -> Array:
    """A read-out of the live units, orthogonal to the idle directions; its effects have mean square 1."""
    vector = np.zeros(directions.shape[1])
    vector[:live] = rng.normal(size=live)
    basis = np.linalg.qr(directions[idle].T)[0] if len(idle) else np.zeros((len(vector), 0))
    for _ in range(2):  # twice is enough for orthogonality to rounding
        vector -= basis @ (basis.T @ vector)
    active = np.setdiff1d(np.arange(len(directions)), idle)
    return np.asarray(vector / np.sqrt(np.mean((directions[active] @ vector) ** 2)))


def _record(activity: Array, settings: PlantSettings) -> Recording:
    place = torch.arange(len(activity))
    dead = np.arange(activity.shape[1]) >= settings.n_units - settings.dead_units
    return Recording.from_arrays(
        {SITE: activity.astype(np.float32)},
        Samples.of(place // 16, place % 16),
        {"source": "planted", "settings": asdict(settings)},
        {SITE: {"dead": dead.tolist()}},
    )


# ---- controls


def plant_noise(settings: PlantSettings | None = None, seed: int = 0) -> Planted:
    """White Gaussian noise with the total variance of `plant`; the directions named were never planted."""
    system = plant(settings, seed)
    values = system.recording[SITE][:].double()
    rng = numpy_rng([seed, 4058])
    centred = values - values.mean(0)
    scale = float(centred.pow(2).mean().sqrt())
    noise = scale * rng.normal(size=tuple(values.shape)) + values.mean(0).numpy()
    return _without_features(system, noise)


def plant_shuffled(settings: PlantSettings | None = None, seed: int = 0) -> Planted:
    """The activity of `plant` with each unit's samples in an order of their own: every marginal, no direction."""
    system = plant(settings, seed)
    values = system.recording[SITE][:].double().numpy()
    rng = numpy_rng([seed, 4059])
    return _without_features(system, rng.permuted(values, axis=0))


def _without_features(system: Planted, activity: Array) -> Planted:
    recording = _record(activity, system.data["settings"])
    nothing = torch.zeros_like(system.codes)
    idle = list(range(len(system.directions)))
    facts = {
        **system.data,
        "idle": idle,
        "hierarchy": [],
        "pairs": [],
        "dense": [],
        "frequency": [0.0] * len(idle),
    }
    assert system.readout is not None
    return Planted(recording, system.directions, nothing, torch.zeros_like(system.readout), facts)


# ---- the same as a circuit


class PlantedNet(nn.Module):
    """codes -> activity -> read-out; `features` and `activity` are modules, so that both can be patched."""

    def __init__(self, directions: Tensor, offset: Tensor, readout_units: Tensor) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.activity = linear(directions.double(), offset)
        self.readout = linear(readout_units[:, None].double())
        self.requires_grad_(False)

    def forward(self, codes: Tensor) -> Tensor:
        """(item, feature) -> (item, 1)."""
        out: Tensor = self.readout(self.activity(self.features(codes)))
        return out


def planted_circuit(settings: PlantSettings | None = None, seed: int = 0, items: int = 256) -> Circuit:
    """The planted features as units of a network whose output is the linear read-out.

    Features are the units of ``features.out``; corrupted inputs have no feature active. Everything is linear, so each
    kind of effect of feature i is w_i times the mean of its codes. Features that are idle have exactly none.
    """
    system = plant(settings, seed)
    assert system.readout is not None
    net = PlantedNet(system.directions, system.data["offset"], system.data["readout_units"])
    codes = system.codes[:items].double()
    subject = TorchModule(net.eval(), codes[:1], name="truth:planted-readout")
    task = TensorTask("planted-readout", codes, torch.zeros_like(codes), lambda out: out[:, 0])
    weights = net.activity.weight.T @ net.readout.weight[0]
    weights[system.data["idle"]] = 0.0
    effect = (weights * codes.mean(0)).tolist()
    names = [f"features.out[{i}]" for i in range(len(effect))]
    return Circuit(
        subject,
        task,
        sites=("features.out",),
        nodes={name: value != 0.0 for name, value in zip(names, effect, strict=True)},
        ablation="patch",
        effects={quantity: dict(zip(names, effect, strict=True)) for quantity in QUANTITIES[:6]},
        data={"directions": system.directions, "readout": system.readout, **system.data},
    )


# ---- the suite

_BASE = PlantSettings()
RECIPES: dict[str, tuple[PlantSettings, str]] = {
    "planted": (_BASE, "48 sparse features of equal frequency in 32 units"),
    "planted-orthogonal": (
        replace(_BASE, n_units=64, n_features=4, idle=1, density=0.1),
        "four orthogonal features in 64 units: what every method must find",
    ),
    "planted-coherent": (replace(_BASE, coherence=0.6), "families of four directions at cosine .6"),
    "planted-hierarchy": (replace(_BASE, parents=12), "twelve children that occur only with their parent"),
    "planted-correlated": (replace(_BASE, pairs=12), "twelve pairs that occur together, correlation .6"),
    "planted-frequencies": (
        replace(_BASE, spread=1.0),
        "log-normal frequencies, over two orders of magnitude",
    ),
    "planted-dense": (replace(_BASE, dense=True), "one feature active in 95 % of samples"),
    "planted-dead": (replace(_BASE, n_units=40, dead_units=8), "eight units that never move"),
    "planted-heavy": (replace(_BASE, tail=1.0, magnitude="exponential"), "samples of very unequal size"),
}


for _name, (_settings, _about) in RECIPES.items():
    enter(_name, "dictionary", partial(plant, _settings), _about, source="planted.py")
enter(
    "planted-noise",
    "dictionary",
    partial(plant_noise, _BASE),
    "white noise of the same variance, nothing planted",
    source="planted.py",
    control=True,
)
enter(
    "planted-shuffled",
    "dictionary",
    partial(plant_shuffled, _BASE),
    "each unit shuffled on its own: marginals kept, directions gone",
    source="planted.py",
    control=True,
)
enter(
    "planted-readout",
    "circuit",
    partial(planted_circuit, _BASE),
    "planted features as units, linear read-out: effects w_i s_i exactly",
    source="planted.py",
)
