"""Transformers with a known anatomy: what language and vision models have in common."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from patchclamp.base.errors import PatchclampError
from patchclamp.nouns.units import FIXED_POINTS, LAYER_POINTS, Site, SiteLike, as_site
from patchclamp.subjects.base import Subject, refuse_site
from patchclamp.subjects.clamp.batch import Batch, Edit
from patchclamp.subjects.clamp.features import output_rows
from patchclamp.subjects.clamp.hooks import Place
from patchclamp.subjects.clamp.modes import Training
from patchclamp.subjects.families.anatomy import AnatomyRow, Tap, row_for, text_config, weight_in_out


class Transformer(Subject):
    """A Hugging Face transformer whose family has a row in the anatomy table; see `LanguageModel`."""

    def __init__(
        self, model: nn.Module, name: str, fingerprint: str = "", *, training: Training = "refuse"
    ) -> None:
        super().__init__(model, name, fingerprint, training=training)
        self.row: AnatomyRow = row_for(model)
        self._places: dict[Site, Place] = {}
        self._modules: dict[str, nn.Module] = dict(model.named_modules())
        self._block_form: int | None = None

    # ---- facts

    @property
    def family(self) -> str:
        """Name of the row in the anatomy table."""
        return self.row.family

    @property
    def causal(self) -> bool:
        """Whether a position sees only itself and what is before it."""
        return self.row.causal

    @cached_property
    def config(self) -> Any:
        """The configuration of the (text) transformer."""
        return text_config(self.model)

    @cached_property
    def layers(self) -> Sequence[nn.Module]:
        """The blocks."""
        blocks = self._modules[self.row.layers]
        assert isinstance(blocks, nn.ModuleList)
        return list(blocks)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return len(self.layers)

    @property
    def n_heads(self) -> int:
        """Number of query heads."""
        return int(self.config.num_attention_heads)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return int(self.config.hidden_size)

    # ---- places

    @cached_property
    def _known(self) -> list[Site]:
        sites = [Site(point) for point in self.row.fixed if point in FIXED_POINTS]
        for layer in range(self.n_layers):
            for point in LAYER_POINTS:
                if self._tap_module(Site(point, layer)) is not None:
                    sites.append(Site(point, layer))
        return sorted(sites)

    def known_sites(self) -> list[Site]:
        """All named sites of this model, in the order of the forward pass."""
        return self._known

    def row_at(self, layer: int) -> AnatomyRow:
        """The row that holds for one block (dense and expert blocks of one model differ)."""
        return self.row.at(self.layers[layer])

    def _tap(self, site: Site) -> Tap | None:
        point = "z" if site.point == "head" else site.point
        return self.row.fixed.get(point) if site.layer is None else self.row_at(site.layer).taps.get(point)

    def _tap_module(self, site: Site) -> nn.Module | None:
        tap = self._tap(site)
        if tap is None:
            return None
        if site.layer is None:
            return self._modules.get(tap.module)
        path = f"{self.row.layers}.{site.layer}"
        return self._modules.get(f"{path}.{tap.module}" if tap.module else path)

    def place(self, site: SiteLike) -> Place:
        """Where a site's tensor lives.

        Raises
        ------
        PatchclampError
            For a site that this model does not have, with the reason or the near names.
        """
        site = self._base(site)
        if site not in self._places:
            self._places[site] = self._find(site)
        return self._places[site]

    def _find(self, site: Site) -> Place:
        if site.is_module:
            if site.point not in self._modules:
                raise refuse_site(site, "this model has no such module", self._modules)
            return Place(self._modules[site.point], "in" if site.io == "in" else "out")
        if site.layer is not None and site.layer >= self.n_layers:
            near = f"; did you mean {site.point}.{str(site.layer)[0]}?" if self.n_layers > 9 else ""
            raise PatchclampError(f"{site}: this model has layers 0..{self.n_layers - 1}{near}")
        row = self.row if site.layer is None else self.row_at(site.layer)
        if site.point in row.missing:
            raise PatchclampError(f"{site}: {row.family} has no {site.point}: {row.missing[site.point]}")
        tap, module = self._tap(site), self._tap_module(site)
        if tap is None or module is None:
            here = [str(s) for s in self._known if s.layer == site.layer]
            raise PatchclampError(
                f"{site}: this block of {self.row.family} has none; it has {', '.join(here)}"
            )
        flat, inplace = site.point in row.flat, site.point in row.inplace
        found = Place(module, tap.io, tap.index, flat=flat, inplace=inplace)
        if site.point != "head":
            return found
        return replace(found, to_units=self.split_heads, from_units=lambda units, z: units.reshape(z.shape))

    def split_heads(self, z: Tensor) -> Tensor:
        """The input of the output projection, cut into heads: (..., heads x d_head) to (..., head, d_head)."""
        heads: Tensor = z.unflatten(-1, (self.n_heads, z.shape[-1] // self.n_heads))
        return heads

    # ---- passes

    def _prepare(
        self, batch: Batch, read: Sequence[Site], write: Sequence[Edit]
    ) -> tuple[list[tuple[Place, Callable[..., Tensor]]], Any]:
        writes: list[tuple[Place, Callable[..., Tensor]]] = []
        # In the order of the pass, so that the order of the list decides nothing but among edits of one site.
        for edit in sorted(write, key=lambda e: e.site):
            if edit.site.point == "resid_mid" and not self.row.post_norm:
                writes += self._write_resid_mid(edit)
            elif edit.site.point in self.row.read_only:
                raise PatchclampError(f"{edit.site}: {self.row.read_only[edit.site.point]}")
            else:
                writes.append((self.place(edit.site), edit.fn))
        eager = any(site.point == "attn_probs" for site in read)
        return writes, self._attention("eager") if eager else ExitStack()

    def _write_resid_mid(self, edit: Edit) -> list[tuple[Place, Callable[..., Tensor]]]:
        """A norm reads a copy of the stream, so the stream is moved through what attention adds to it."""
        self.place(edit.site)
        entering: list[Tensor] = []

        def remember(stream: Tensor, batch: Batch) -> Tensor:
            entering[:] = [stream]
            return stream

        def move(added: Tensor, batch: Batch) -> Tensor:
            old = entering.pop() + added
            new = edit.fn(old, batch)
            return added if new is old else added + (new - old)

        layer = edit.site.layer
        return [
            (self.place(Site("resid_pre", layer)), remember),
            (self.place(Site("attn_out_post", layer)), move),
        ]

    @contextmanager
    def _attention(self, implementation: str) -> Iterator[None]:
        configs: dict[int, Any] = {
            id(m.config): m.config for m in self.model.modules() if hasattr(m, "config")
        }
        before = {key: config._attn_implementation for key, config in configs.items()}
        try:
            for config in configs.values():
                config._attn_implementation = implementation
            yield
        finally:
            for key, config in configs.items():
                config._attn_implementation = before[key]

    def _of_head(self, site: Site) -> bool:
        module = self.place(site).module
        return site == Site("logits") or any(module is self._modules[path] for path in self.row.head_path)

    def _root(self) -> tuple[Place, ...]:
        return (self.place(Site("embeddings")),)

    def _output(self, batch: Batch) -> Tensor | None:
        if Site("logits") in self._known:
            return super()._output(batch)
        last = Site("resid_post", self.n_layers - 1)
        found: Tensor = self.run(batch, read=[last]).activity[last]
        return found

    @contextmanager
    def _resumed(
        self, start: tuple[int, Tensor] | None, read: Sequence[Site], write: Sequence[Edit]
    ) -> Iterator[None]:
        if start is None:
            yield
            return
        layer, stream = start
        if not 0 <= layer < self.n_layers:
            raise PatchclampError(f"start: this model has layers 0..{self.n_layers - 1}, not {layer}")
        gone = {module for block in self.layers[:layer] for module in block.modules()}
        for edit in write:
            if self.place(edit.site).module in gone or (layer and edit.site.point == "embeddings"):
                raise PatchclampError(
                    f"{edit.site}: the pass starts at layer {layer}, so this edit would do nothing"
                )
        for site in read:
            if self.place(site).module in gone and site != Site("resid_post", layer - 1):
                raise PatchclampError(f"{site}: the pass starts at layer {layer}, so it is not computed")
        form = self._form_of_blocks()

        def skip(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            return stream if not form else (stream, *[None] * (form - 1))

        skipped = self.layers[:layer]
        # A block may have a forward of its own already (accelerate's, on models spread over devices).
        before = [block.__dict__.get("forward") for block in skipped]
        try:
            for block in skipped:
                block.forward = skip
            yield
        finally:
            for block, own in zip(skipped, before, strict=True):
                block.__dict__.pop("forward", None)
                if own is not None:
                    block.forward = own

    def _form_of_blocks(self) -> int:
        """Length of the tuple that a block returns; 0 where it returns a tensor."""
        if self._block_form is None:
            found: list[int] = []
            with self.layers[0].register_forward_hook(
                lambda module, args, out: found.append(len(out) if isinstance(out, tuple) else 0)
            ):
                self.run(self.dummy(), read=[Site("resid_post", 0)])
            self._block_form = found[0] if found else 0
        return self._block_form

    @cached_property
    def _accepted(self) -> frozenset[str]:
        return frozenset(inspect.signature(self.model.forward).parameters)

    # ---- weights that methods need

    def layer_module(self, layer: int, path: str) -> nn.Module:
        """A module of a block by its path in the block."""
        return self._modules[f"{self.row.layers}.{layer}.{path}" if path else f"{self.row.layers}.{layer}"]

    def head_output_matrix(self, layer: int) -> Float[Tensor, "head d_head d_model"]:
        """The output projection cut by head: contribution of head h = z[h] @ W[h]."""
        weight = weight_in_out(self.layer_module(layer, self.row_at(layer).head_proj)).detach()
        heads: Tensor = weight.unflatten(0, (self.n_heads, -1))
        return heads

    def output_matrix(self, site: SiteLike) -> Float[Tensor, "units d_model"]:
        """What each unit of a neuron site writes into the stream, one row a unit; for features, what their directions do."""
        site = as_site(site)
        if site.dictionary is not None:
            return output_rows(self, site)
        path = self.row_at(site.layer or 0).mlp_proj
        if site.point != "mlp_act" or path is None:
            raise PatchclampError(f"{site}: only mlp_act has an output matrix of its own")
        return weight_in_out(self.layer_module(site.layer or 0, path)).detach()

    def output_norms(self, site: SiteLike) -> Float[Tensor, " units"]:
        """Norm of what one unit of activity writes into the stream: |column of the down projection|.

        Ones for sites whose units are the stream's own coordinates; for features the norm of their direction (of what
        it writes through the down projection, where its target is neurons); for heads the Frobenius norm of their
        output matrix over sqrt(d_head).
        """
        norms: Tensor
        site = as_site(site)
        if site.dictionary is not None:
            norms = output_rows(self, site).norm(dim=1)
        elif site.point == "mlp_act":
            norms = self.output_matrix(site).float().norm(dim=1)
        elif site.point == "head":
            weight = self.head_output_matrix(site.layer or 0).float()
            norms = weight.flatten(1).norm(dim=1) / weight.shape[1] ** 0.5
        else:
            norms = torch.ones(self.width(site))
        return norms

    def unembed(self) -> tuple[Float[Tensor, "vocabulary d_model"], Float[Tensor, " d_model"] | None]:
        """The output embedding, and the gain of the final norm (Gemma's one-plus-weight included).

        The gain is None where there is none, or where blocks end with norms of their own (OPT-350m); a projection before the output
        embedding is multiplied in.

        Raises
        ------
        PatchclampError
            For a model without a head over its vocabulary, or with one that is not linear (BERT).
        """
        model: Any = self.model
        head = model.get_output_embeddings()
        if head is None:
            raise PatchclampError(f"{self.name}: this model has no output embedding")
        weight = head.weight.detach()
        for path in reversed(self.row.head_path[:-1]):
            if not isinstance(self._modules[path], nn.Linear):
                raise PatchclampError(
                    f"{self.name}: {path} lies between the stream and the logits and is not linear"
                )
            weight = weight @ weight_in_out(self._modules[path]).detach().T
        tap = self.row.fixed.get("final_norm")
        gain = None if tap is None else getattr(self._modules[tap.module], "weight", None)
        return weight, None if gain is None else gain.detach() + self.row.norm_offset
