"""Dictionaries of known make, for tests of features as units."""

from __future__ import annotations

import torch
from torch import Tensor

from patchclamp.nouns.dictionary import Dictionary


class Plain(Dictionary):
    """z = relu(x E + b) or x E; x^ = z D + c."""

    method = "plain"

    def __init__(
        self, site, encoder: Tensor, directions: Tensor, bias=None, offset=None, relu=True, target=None
    ):
        super().__init__(site, target)
        self.encoder, self.rows, self.relu = encoder, directions, relu
        self.bias = torch.zeros(len(directions)) if bias is None else bias
        self.shift = torch.zeros(directions.shape[1]) if offset is None else offset

    @property
    def directions(self):
        return self.rows

    @property
    def offset(self):
        return self.shift

    @property
    def input_width(self):
        return len(self.encoder)

    def encode(self, activity):
        codes = activity @ self.encoder + self.bias
        return torch.relu(codes) if self.relu else codes


class Curved(Plain):
    """A decoder that is no matrix."""

    def decode(self, codes):
        return torch.tanh(codes) @ self.rows


def identity(site, width):
    return Plain(site, torch.eye(width), torch.eye(width), relu=False)


def lossy(site, width, features=11, seed=0, target=None, out=None, kind=Plain):
    draw = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=draw)
    encoder, rows = make(width, features) / width**0.5, make(features, out or width)
    return kind(site, encoder, rows, 0.1 * make(features), 0.1 * make(out or width), target=target)


def rotation(site, width, seed=0):
    q = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(seed)).double())[0]
    return Plain(site, q.T.float(), q.float(), relu=False)


def one_pair(subject, task, size=8):
    return next(iter(subject.pairs(task, size)))


SITES = ("embeddings", "resid_pre.1", "z.1", "attn_out.1", "resid_mid.1", "mlp_pre.1", "mlp_act.1", "mlp_out.1",
         "resid_post.1", "final_norm", "model.layers.1.mlp.down_proj.in")  # fmt: skip
