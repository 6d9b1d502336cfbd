"""Bringing dead features back: an auxiliary loss (TopK and its kin), or a new start (the ReLU and its kin)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from patchclamp.decompose.sae.core import Pass, Tensors, unit_rows
from patchclamp.decompose.sae.support import of_topk


def auxiliary_loss(
    step: Pass,
    pre: Float[Tensor, "batch feature"],
    residual: Float[Tensor, "batch unit"],
    dead: Bool[Tensor, " feature"],
    k: int,
    weight: float,
) -> Tensor:
    """Let the dead features explain what the living ones leave (Gao et al. 2024), and add the gradients.

    weight * units * |e - e^|^2 / |e - mean e|^2, where e = y - y^ is held fixed and e^ decodes the `k` largest
    pre-activations among dead features, without any bias: the error holds none.
    """
    index = dead.nonzero().view(-1)
    if not len(index):
        return pre.new_zeros(())
    target = -residual
    spread = (target - target.mean(0)).square().sum()
    if float(spread) == 0:
        return pre.new_zeros(())
    part = pre[:, index].contiguous()
    support = of_topk(part, min(k, len(index)), part.dtype, step.products)
    codes = support.take(part)
    weights = step.params["W_dec"][index]
    gap = support.decode(codes, weights).sub_(target)
    factor = weight * target.shape[1] / spread
    g = gap * (2 * factor)
    grad = support.dots(g, weights)
    _add_rows(step, "W_dec", index, support.gradient(codes, g))
    _add_rows(step, "W_enc", index, support.gradient(grad, step.centred))
    total = support.totals(grad)
    _add_rows(step, "b_enc", index, total)
    step.add(step.geometry.pre_bias, -(total @ step.params["W_enc"][index]))
    return factor * gap.square().sum()


def _add_rows(step: Pass, name: str, index: Tensor, grad: Tensor) -> None:
    step.grads[name].index_add_(0, index, grad)


def restart(
    params: Tensors,
    moments: list[Tensors],
    dead: Bool[Tensor, " feature"],
    centred: Float[Tensor, "batch input"],
    residual: Float[Tensor, "batch output"],
    generator: torch.Generator,
) -> None:
    """Point dead features at badly reconstructed rows (Bricken et al. 2023), in place.

    Rows are drawn with probability proportional to their squared error. The decoder's row becomes the direction of
    the row's error, the encoder's (where there is one beside the decoder) the direction of the row, a fifth as long as
    a living feature's; biases and Adam's moments start again, without which the old moments would undo the new start.
    """
    index = dead.nonzero().view(-1)
    error = residual.square().sum(1).double().cpu()
    if not len(index) or float(error.sum()) == 0:
        return
    drawn = torch.multinomial(error, len(index), replacement=True, generator=generator).to(centred.device)
    living = not bool(dead.all())
    lengths = params["W_dec"][~dead].norm(dim=1).mean() if living else 1.0
    params["W_dec"][index] = unit_rows(-residual[drawn]) * lengths
    if "W_enc" in params:  # matching pursuit encodes with the decoder's rows
        length = params["W_enc"][~dead].norm(dim=1).mean() if living else 1.0
        params["W_enc"][index] = unit_rows(centred[drawn]) * (0.2 * length)
    for name in ("b_enc", "r_mag", "b_mag"):
        if name in params:
            params[name][index] = 0.0
    for moment in moments:
        for name, values in moment.items():
            if values.ndim and len(values) == len(dead) and name not in ("b_dec", "b_pre", "W_skip"):
                values[index] = 0.0
