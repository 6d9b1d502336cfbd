"""Any PyTorch module as a subject; its sites are the dotted paths of its modules, and calls of one are positions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.tasks.protocol import TaskLike
from patchclamp.nouns.units import POINTS, Site, SiteLike, as_site
from patchclamp.subjects.base import Subject, refuse_site
from patchclamp.subjects.clamp.batch import Batch, Pair
from patchclamp.subjects.clamp.features import output_rows
from patchclamp.subjects.clamp.hooks import Element, Place
from patchclamp.subjects.clamp.modes import Training
from patchclamp.subjects.clamp.steps import Called
from patchclamp.subjects.inputs import (
    ALONE,
    Inputs,
    as_inputs,
    n_items,
    named_inputs,
    rebuilt,
    refuse_other_inputs,
    shapes_of,
    take_items,
    two_of,
)
from patchclamp.subjects.layout import TensorLayout
from patchclamp.subjects.survey import Path, Survey, element_of, item_axis, survey, words_of
from patchclamp.subjects.tensors import TensorTask, tensor_pairs

IO = Literal["in", "out"]


class TorchModule(Subject):
    """Any `torch.nn.Module` that takes tensors.

    A site is a module's dotted path with ``.in`` or ``.out``. Of several tensors the first one is meant; the others have a
    number, or the name of an argument or of a part: ``.out.1``, ``.in.context``, and for torch's recurrent and attention
    modules ``.out.hidden``, ``.out.cell``, ``.out.weights`` (the layers of a state side by side as units).

    Activity is (batch, pos, units): a (batch, units) tensor has one position, a (batch, time, units) tensor one a step, an
    image (batch, channel, height, width) has a position for each pixel and a unit for each channel. Calls of a module that
    is called several times in a pass (a cell in a loop, a block applied again) are positions: the n-th call is position n,
    or, of p positions each, n p to n p + p - 1 (`step`). Which axis of a tensor holds the items is learnt from a pass of two.

    Of an output with several parts, as transformers' models give, a task's metric gets the logits, or the first part;
    items first.

    Parameters
    ----------
    model
        Used as it is.
    example
        An input of one item, from which widths and calls are learnt: a tensor, a tuple of tensors, or a dict of them by
        argument name. Items are the first axis.
    name, fingerprint, training
        See `Subject`.
    time_axis
        The axis of time of what the model is given: 1 for (batch, time, ...), 2 for (batch, units, time), and 0 for a model
        that wants time first, (time, batch, ...), which then gets it: items stay first in `example`, `batch`, tasks and what a
        metric is given. Of several inputs, a dict by name (the number of its place in a tuple); a number alone means the
        first one, and those of three axes or more. None: positions that a task names are calls.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> subject = TorchModule(net, torch.zeros(1, 4))
    >>> [str(s) for s in subject.known_sites()]
    ['0.out', '1.out', '2.out']
    >>> subject.width(subject.resolve("1.out")[0])
    3
    """

    tokenizer = None

    def __init__(
        self,
        model: nn.Module,
        example: Inputs,
        name: str = "module",
        fingerprint: str = "",
        *,
        training: Training = "refuse",
        time_axis: int | Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(model, name, fingerprint, training=training)
        self.example = take_items(as_inputs(example, name), slice(0, 1))
        self.time_axis = time_axis
        self._time = _time_axes(time_axis, as_inputs(example, name), name)
        self._places: dict[Site, Place] = {}
        self._surveys: dict[tuple[Any, ...], Survey] = {}

    # ---- what the modules do

    @cached_property
    def _modules(self) -> dict[str, nn.Module]:
        return dict(self.model.named_modules())

    @cached_property
    def _twins(self) -> dict[str, str]:
        """Further names of modules that stand in several places -> the first name."""
        first = {module: name for name, module in self._modules.items()}
        every = self.model.named_modules(remove_duplicate=False)
        return {name: first[module] for name, module in every if first[module] != name}

    def _survey(self, inputs: Inputs) -> Survey:
        """What the modules do with one item of this shape."""
        key = tuple(sorted(shapes_of(inputs).items()))
        if key not in self._surveys:
            item = take_items(inputs, slice(0, 1))
            self._surveys[key] = survey(self.model, self._modules, lambda: self._call(item), self.device)
        return self._surveys[key]

    @cached_property
    def _two(self) -> Survey:
        """What they do with two items: it shows which axis holds them."""
        self._survey(self.example)
        try:
            found = survey(self.model, self._modules, lambda: self._call(two_of(self.example)), self.device)
        except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
            raise PatchclampError(
                f"{self.name}: the model runs on one item, and on two of them fails ({error}); a subject runs items together, "
                "so the first axis of its inputs must be theirs"
            ) from error
        for name, module in self._modules.items():
            self._refuse_turned(name, module, found)
        return found

    def _refuse_turned(self, name: str, module: nn.Module, two: Survey) -> None:
        if getattr(module, "batch_first", True):
            return
        one = self._survey(self.example)
        for io in ("in", "out"):
            shapes = one.of(io, name).get((0,), [])
            axis = item_axis(shapes, two.of(io, name).get((0,), []))
            if shapes and len(shapes[0]) == 3 and axis is not None and axis[0] == 0:
                raise PatchclampError(
                    f"{name or self.name} ({type(module).__name__}): takes axis 0 of its {io}put for time (batch_first=False), and "
                    "axis 0 holds the items, which would be steps of one sequence; give TorchModule(..., time_axis=0) for a "
                    "model that wants time first, or set batch_first=True"
                )

    def _call(self, inputs: Inputs) -> Any:
        """The model on inputs with items first."""
        tensors = {name: x.to(self.device) for name, x in named_inputs(inputs).items()}
        for name, axis in self._time.items():
            if axis == 0:
                tensors[name] = tensors[name].transpose(0, 1).contiguous()
        given = rebuilt(tensors, self.example)
        if isinstance(given, Tensor):
            return self.model(given)
        return self.model(**given) if isinstance(given, Mapping) else self.model(*given)

    # ---- sites

    @cached_property
    def _known(self) -> list[Site]:
        self.check_mode()
        found = []
        one = self._survey(self.example)
        for name in one.calls:
            there = one.of("out", name)
            for path in there if name else ():
                words = words_of(self._modules[name], path, there)
                site = Site(name, io="out" + f".{words}" * bool(words))
                if not self._why_not(name, "out", path):
                    found.append(site)
        return found

    def known_sites(self) -> list[Site]:
        """Outputs of all modules that run in a pass, in the order in which they finish."""
        return self._known

    def place(self, site: SiteLike) -> Place:
        """The module's input or output, viewed as (batch, pos, units)."""
        site = self._base(site)
        if site not in self._places:
            self._places[site] = self._find(site)
        return self._places[site]

    def _find(self, site: Site) -> Place:
        name = site.point
        io, _, words = (site.io or "").partition(".")
        if io not in ("in", "out"):
            options = ", ".join(str(s) for s in self._known[:8])
            raise refuse_site(
                site, f"this model has no named points; its sites are module paths: {options} ..."
            )
        if name in self._twins:
            first = self._twins[name]
            raise refuse_site(
                site, f"is the same module as {first}, so that its calls are positions of {first}.{site.io}"
            )
        if name not in self._modules:
            raise refuse_site(site, "this model has no such module", (str(s) for s in self._known))
        side = cast("IO", io)
        module, there = self._modules[name], self._survey(self.example).of(side, name)
        if not there and name not in self._survey(self.example).calls:
            return Place(module, side)  # it does not run on the example; a pass that never reaches it says so
        path = _main_argument(there) if side == "in" and not words else element_of(module, words, there)
        if path is None:
            others = [words_of(module, one, there) for one in there]
            listed = ", ".join(f"{name}.{io}" + f".{one}" * bool(one) for one in others) or "none"
            raise refuse_site(site, f"there is no such tensor among its {io}puts; there are {listed}")
        if why := self._why_not(name, side, path):
            raise refuse_site(site, why)
        layout = self._layout(name, side, path)
        index: Element = 0 if not words and (side == "in" or path in ((), (0,))) else path
        return Place(module, side, index, layout.to_units, layout.from_units)

    def _layout(self, name: str, io: IO, path: Path) -> TensorLayout:
        module = self._modules[name]
        state = isinstance(module, nn.RNNBase) and path[:1] == (1,)
        axis = self._items(name, io, path)
        return TensorLayout(axis[0] if axis else 0, 2 in self._time.values(), state)

    def _items(self, name: str, io: IO, path: Path) -> tuple[int, int] | None:
        two = self._two  # first, as it also looks whether the model takes several items
        return item_axis(self._survey(self.example).of(io, name)[path], two.of(io, name).get(path, []))

    def _why_not(self, name: str, io: IO, path: Path) -> str:
        """Why a tensor is no site; empty where it is one."""
        axis = self._items(name, io, path)
        if axis is not None and axis[1] > 1:
            return (
                f"its tensor holds items and positions in one axis ({axis[1]} rows an item); address a module before or "
                "behind it"
            )
        shapes = self._survey(self.example).of(io, name)[path]
        layout = self._layout(name, io, path)
        extents = list(dict.fromkeys(layout.extent(shape) for shape in shapes))
        if len(extents) > 1:
            first, other = extents[:2]
            return (
                f"its module runs {len(shapes)} times in a pass, with {first[0]} positions of {first[1]} units and with "
                f"{other[0]} of {other[1]}, so that its calls are no steps of the same units; give each place a module of its own"
            )
        return ""

    def step(self, site: SiteLike, number: int) -> tuple[int, ...]:
        """The positions of the n-th call of a site's module (negative: from the last), for `Intervention(positions=...)`.

        Examples
        --------
        >>> class Twice(nn.Module):
        ...     def __init__(self): super().__init__(); self.block = nn.Linear(3, 3)
        ...     def forward(self, tokens): return self.block(self.block(tokens))
        >>> TorchModule(Twice(), torch.zeros(1, 4, 3)).step("block.out", 1)
        (4, 5, 6, 7)
        """
        site = self._base(site)
        place = self.place(site)
        times = self._survey(self.example).calls.get(site.point, 0)
        if not -times <= number < times:
            raise PatchclampError(
                f"{site}: call {number} is asked for, and its module is called {times} times in a pass"
            )
        seen = self.run(self.dummy(), read={site: lambda activity: activity.shape[1]}, stop=False)
        size = int(seen.activity[site]) // self._calls(self.dummy())[place.module].times
        start = (number % times) * size
        return tuple(range(start, start + size))

    def _description(self, site: Site) -> str:
        words = POINTS.get(site.point, f"{(site.io or 'out').partition('.')[0]}put of the module")
        times = self._survey(self.example).calls.get(site.point, 0)
        again = [name for name, first in self._twins.items() if first == site.point]
        words += f", {times} calls side by side as positions" * (times > 1)
        return words + (f"; also stands at {', '.join(again)}" if again else "")

    # ---- passes

    def batch(self, inputs: Inputs, rows: Tensor | None = None) -> Batch:
        """Wrap inputs (item, ...) in a batch; its positions are those of time, or else the calls of a module."""
        inputs = as_inputs(inputs, self.name)
        refuse_other_inputs(inputs, self.example, self.name)
        n = n_items(inputs)
        index = torch.arange(n) if rows is None else rows
        return Batch(None, torch.ones(n, self._length(inputs), dtype=torch.bool), index, named_inputs(inputs))

    def _length(self, inputs: Inputs) -> int:
        if self._time:
            name, axis = next(iter(self._time.items()))
            return named_inputs(inputs)[name].shape[axis or 1]
        return max(self._survey(inputs).calls.values(), default=1) if n_items(inputs) else 1

    def content_mask(self, batch: Batch) -> Bool[Tensor, "batch pos"]:
        """Everything counts."""
        return batch.mask

    def dummy(self) -> Batch:
        """The example given."""
        return self.batch(self.example)

    def _calls(self, batch: Batch) -> Mapping[nn.Module, Called]:
        one = self._survey(rebuilt(batch.tensors, self.example))
        return {self._modules[name]: Called(name or self.name, times) for name, times in one.calls.items()}

    def _forward(self, batch: Batch, logits: Any, whole: bool) -> Tensor | None:
        out = self._call(rebuilt(batch.tensors, self.example))
        if logits is None:
            return None
        path, found = _main_output(out)
        result: Tensor = found
        axis = None
        if self._time and isinstance(found, Tensor) and path in self._survey(self.example).of("out", ""):
            axis = self._items("", "out", path)
        return result.movedim(axis[0], 0) if axis is not None and axis[0] else result

    def _root(self) -> tuple[Place, ...]:
        """The inputs; of a model that takes whole numbers, what its embeddings make of them."""
        found = [(name, x.is_floating_point()) for name, x in named_inputs(self.example).items()]
        keys: list[Element] = [0 if name == ALONE else (int(name),) if name.isdecimal() else (name,)
                               for name, floating in found if floating]  # fmt: skip
        places = [Place(self.model, "in", key) for key in keys]
        if len(places) < len(found):
            places += [
                Place(m, "out")
                for m in self._modules.values()
                if isinstance(m, (nn.Embedding, nn.EmbeddingBag))
            ]
        return tuple(places)

    def pairs(self, task: TaskLike, batch_size: int = 32) -> Iterator[Pair]:
        """Batches of a `TensorTask`."""
        return tensor_pairs(self, task, batch_size, self.batch)

    def output_norms(self, site: SiteLike) -> Float[Tensor, " units"]:
        """Ones: nothing is known of what a unit writes; for features the norm of their direction."""
        site = as_site(site)
        if site.dictionary is None:
            return torch.ones(self.width(site))
        norms: Tensor = output_rows(self, site).norm(dim=1)
        return norms


def _time_axes(time_axis: int | Mapping[str, int] | None, example: Inputs, whose: str) -> dict[str, int]:
    """Input -> its axis of time, where it has one."""
    if time_axis is None:
        return {}
    inputs = named_inputs(example)
    first = next(iter(inputs))
    if isinstance(time_axis, Mapping):
        axes = {str(name): axis for name, axis in time_axis.items()}
    else:
        axes = {name: time_axis for name, x in inputs.items() if name == first or x.ndim > 2}
    for name, axis in axes.items():
        if name not in inputs:
            raise PatchclampError(
                f"{whose}: time_axis names the input {name!r}; there are {', '.join(inputs)}"
            )
        shape = tuple(inputs[name].shape)
        if axis not in (0, 1, 2) or len(shape) <= max(axis, 1):
            raise PatchclampError(
                f"{whose}: time_axis={axis} for input {name!r} of shape {shape}; give 0 (time first), 1 or 2"
            )
        if axis == 0 and shape[0] > 1 and shape[1] == 1:
            raise PatchclampError(
                f"{whose}: input {name!r} of the example has shape {shape}; give items first, {(1, shape[0], *shape[2:])}: with "
                "time_axis=0 the model gets time first"
            )
    return axes


def _main_argument(there: Mapping[Path, Any]) -> Path | None:
    """The argument that ``.in`` means: the first, or ``hidden_states`` among those given by name."""
    named = ("hidden_states",)
    return (0,) if (0,) in there else named if named in there else next(iter(there), None)


def _main_output(out: Any) -> tuple[Path, Any]:
    """What a metric is given, and where it is: of an output with several parts the logits, or the first."""
    path: Path = ()
    while not isinstance(out, Tensor) and isinstance(out, (Mapping, tuple, list)) and len(out):
        key: Any = 0
        if isinstance(out, Mapping):
            key = "logits" if "logits" in out else next(iter(out))
        path, out = (*path, key), out[key]
    return path, out


__all__: Sequence[str] = ["TensorTask", "TorchModule", "tensor_pairs"]
