"""Functions of one number as plain data, and the search for the shortest one that fits a black box."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchclamp.base.errors import PatchclampError, check_choice
from patchclamp.base.seeds import numpy_rng
from patchclamp.draw.cards import shown

__all__ = ["FORMS", "Formula", "fit_formula", "formula_from_json"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _CurveForm:
    """Columns whose weighted sum the form is: linear parameters w, then shape parameters s.

    Forms that are not `searched` stand in the suite of functions and are beyond what `fit_formula` can say.
    """

    n_linear: int
    n_shape: int
    columns: Callable[[Array, tuple[float, ...]], list[Any]]
    english: str
    searched: bool = True


def _ones(x: Array) -> Array:
    return np.ones_like(x)


FORMS: dict[str, _CurveForm] = {
    "constant": _CurveForm(1, 0, lambda x, s: [_ones(x)], "{0}"),
    "linear": _CurveForm(2, 0, lambda x, s: [_ones(x), x], "{1} x + {0}"),
    "quadratic": _CurveForm(3, 0, lambda x, s: [_ones(x), x, x * x], "{2} x² + {1} x + {0}"),
    "absolute": _CurveForm(2, 1, lambda x, s: [_ones(x), np.abs(x - s[0])], "{1} |x - {2}| + {0}"),
    "rectified": _CurveForm(
        2, 1, lambda x, s: [_ones(x), np.maximum(x - s[0], 0)], "{1} max(0, x - {2}) + {0}"
    ),
    "step": _CurveForm(2, 1, lambda x, s: [_ones(x), (x > s[0]) * 1.0], "{0}, and {1} more above {2}"),
    "sine": _CurveForm(
        3,
        1,
        lambda x, s: [_ones(x), np.sin(x * s[0]), np.cos(x * s[0])],
        "{0} + {1} sin({3} x) + {2} cos({3} x)",
    ),
    "two_lines": _CurveForm(
        4,
        1,
        lambda x, s: [(x <= s[0]) * 1.0, (x <= s[0]) * x, (x > s[0]) * 1.0, (x > s[0]) * x],
        "{1} x + {0} up to {4}, {3} x + {2} above",
    ),
    "sine_of_distance": _CurveForm(
        2,
        2,
        lambda x, s: [_ones(x), np.sin(np.abs(x - s[0]) ** 1.5 * s[1])],
        "{0} + {1} sin({3} |x - {2}|^1.5)",
        False,
    ),
    "growing_wave": _CurveForm(
        2, 1, lambda x, s: [_ones(x), x * np.sin(x * s[0])], "{0} + {1} x sin({2} x)", False
    ),
    "network": _CurveForm(
        1, 1, lambda x, s: [_network(x, int(s[0]))], "{0} times a network of 64 rectifiers", False
    ),
}


def _network(x: Array, seed: int) -> Array:
    """A random network with one hidden layer of 64 rectifiers, whose kinks lie within -128..128."""
    rng = numpy_rng(seed)
    kinks, slopes, out = rng.uniform(-128, 128, 64), rng.choice([-1.0, 1.0], 64), rng.normal(size=64)
    hidden = np.maximum(slopes * (x[..., None] - kinks), 0)
    return np.asarray(hidden @ out / 64, dtype=np.float64)


_SEARCHED = tuple(name for name, form in FORMS.items() if form.searched)


@shown
@dataclass(frozen=True)
class Formula:
    """A form with its parameters, and an interval in which something else holds.

    Parameters
    ----------
    form
        Of `FORMS`.
    values
        Linear parameters, then shape parameters.
    exception
        (low, high): where the formula is known not to hold; what holds there is `inside`.
    inside
        Formula of the interval; None where it is not known.

    Examples
    --------
    >>> line = Formula("linear", (1.0, 2.0))
    >>> line([0.0, 3.0]).tolist(), str(line)
    ([1.0, 7.0], 'f(x) = 2 x + 1')
    """

    form: str
    values: tuple[float, ...]
    exception: tuple[float, float] | None = None
    inside: Formula | None = None

    def __post_init__(self) -> None:
        check_choice("formula: form", self.form, FORMS)
        form = FORMS[self.form]
        if len(self.values) != form.n_linear + form.n_shape or not all(map(math.isfinite, self.values)):
            raise PatchclampError(
                f"formula {self.form}: values {self.values}; wanted {form.n_linear + form.n_shape} finite numbers"
            )

    def __call__(self, x: ArrayLike) -> Array:
        """Values at `x`."""
        points = np.asarray(x, dtype=np.float64)
        form = FORMS[self.form]
        columns = form.columns(points, self.values[form.n_linear :])
        out = np.sum([w * c for w, c in zip(self.values, columns, strict=False)], axis=0)
        if self.exception is not None and self.inside is not None:
            low, high = self.exception
            there = (points >= low) & (points <= high)
            out = np.where(there, self.inside(points), out)
        return np.asarray(out, dtype=np.float64)

    def __str__(self) -> str:
        return f"f(x) = {self._text()}"

    def _text(self) -> str:
        least = 1e-9 * max(map(abs, self.values))  # what rounding leaves of a zero is shown as zero
        shown = (f"{v if abs(v) > least else 0:.4g}" for v in self.values)
        text = FORMS[self.form].english.format(*shown).replace("+ -", "- ")
        if self.exception is None:
            return text.replace("- -", "+ ")
        low, high = self.exception
        inside = "something else" if self.inside is None else self.inside._text()
        return f"{text.replace('- -', '+ ')}, but {inside} for x from {low:.4g} to {high:.4g}"

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "form": self.form,
            "values": list(self.values),
            "exception": None if self.exception is None else list(self.exception),
            "inside": None if self.inside is None else self.inside.to_json(),
        }


def formula_from_json(data: Mapping[str, Any] | str) -> Formula:
    """Make a formula from a JSON object or its text; refused by name where it is none."""
    try:
        own = json.loads(data) if isinstance(data, str) else data
        inside = own.get("inside")
        exception = own.get("exception")
        return Formula(
            str(own["form"]),
            tuple(float(v) for v in own["values"]),
            None if exception is None else (float(exception[0]), float(exception[1])),
            None if inside is None else formula_from_json(inside),
        )
    except (json.JSONDecodeError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise PatchclampError(
            f"formula: {type(error).__name__}: {error} in {str(data)[:80]!r}; wanted form and values"
        ) from error


def fit_formula(x: ArrayLike, y: ArrayLike) -> Formula:
    """The form that fits best for its number of parameters, by the Bayesian information criterion.

    n log(RSS / n) + parameters x log n, with the residual floored at 1e-9 of the spread, so that an exact fit is not
    bought with parameters. Points more than eight median absolute residuals off a first, robust fit are set aside; if
    they fill an interval, that interval is named as an exception and fitted by itself.

    Examples
    --------
    >>> x = np.arange(-20.0, 20)
    >>> str(fit_formula(x, 3 * x - 1))
    'f(x) = 3 x - 1'
    """
    points, values = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if points.shape != values.shape or points.ndim != 1 or len(points) < 8 or not np.isfinite(values).all():
        raise PatchclampError(
            f"formula: {len(points)} points, {len(values)} values; wanted 8 or more, all finite"
        )
    order = np.argsort(points, kind="stable")
    points, values = points[order], values[order]
    best = _best(points, values, np.ones(len(points), bool))
    for _, (_, kept) in zip(range(2), _robust(points, values), strict=False):
        off = np.flatnonzero(~kept)
        low, high = int(off[0]), int(off[-1])
        interval = (off.size / (high - low + 1) > 0.8) and 4 <= high - low + 1 < 0.4 * len(points)
        if not interval:
            continue
        keep = np.ones(len(points), bool)
        keep[low : high + 1] = False
        outer, inner = _best(points, values, keep), None
        if (~keep).sum() >= 8:
            inner = _best(points, values, ~keep)
        made = Formula(outer.form, outer.values, (float(points[low]), float(points[high])), inner)
        if _criterion(made, points, values) < _criterion(best, points, values):
            best = made
    return best


def _robust(points: Array, values: Array) -> Iterator[tuple[Formula, NDArray[np.bool_]]]:
    """Fits that leave out what lies far off, for every form; where something lies off."""
    found = []
    for name in _SEARCHED:
        kept = np.ones(len(points), bool)
        fit = _fitted(name, points, values, kept)
        for _ in range(8):
            residual = np.abs(values - fit(points))
            level = max(8 * float(np.median(residual)), 1e-6 * float(np.ptp(values)) + 1e-12)
            new = residual <= level
            if (new == kept).all() or new.sum() < 0.6 * len(points):
                break
            kept = new
            fit = _fitted(name, points, values, kept)
        if not kept.all():
            score = float(np.median(np.abs(values - fit(points)))) * (1 + 0.1 * len(fit.values))
            found.append((score, name, fit, kept))
    for _, _, fit, kept in sorted(found, key=lambda f: f[:2]):
        yield fit, kept


def _best(points: Array, values: Array, keep: NDArray[np.bool_]) -> Formula:
    fits = [_fitted(name, points, values, keep) for name in _SEARCHED]
    return min(fits, key=lambda f: _criterion(f, points[keep], values[keep]))


def _criterion(fit: Formula, points: Array, values: Array) -> float:
    n = len(points)
    floor = 1e-9 * max(float(values.var()), 1e-12)
    parameters = len(fit.values) + (0 if fit.exception is None else 2)
    parameters += 0 if fit.inside is None else len(fit.inside.values)
    return n * math.log(max(float(np.mean((values - fit(points)) ** 2)), floor)) + parameters * math.log(n)


def _fitted(name: str, points: Array, values: Array, keep: NDArray[np.bool_]) -> Formula:
    """Least squares on the points kept; shape parameters on a grid, then refined around the best."""
    form, x, y = FORMS[name], points[keep], values[keep]

    def solved(shape: tuple[float, ...]) -> tuple[float, tuple[float, ...]]:
        matrix = np.stack(form.columns(x, shape), 1)
        weights = np.linalg.lstsq(matrix, y, rcond=None)[0]
        return float(np.mean((y - matrix @ weights) ** 2)), (*map(float, weights), *shape)

    if not form.n_shape:
        return Formula(name, solved(())[1])
    span = float(np.ptp(points))
    if name == "sine":
        grid = np.pi / span * np.arange(1, len(points) // 2, 0.5)
    else:
        grid = np.linspace(points[0], points[-1], 66)[1:-1]
    width = float(grid[1] - grid[0])
    tried = [solved((float(s),)) for s in grid]
    for _ in range(3):
        centre = min(tried)[1][-1]
        tried += [solved((float(s),)) for s in centre + np.linspace(-width, width, 17)]
        width /= 8
    return Formula(name, min(tried)[1])
