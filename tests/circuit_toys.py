"""A GPT-2 whose weights are set by hand: it finds "A B ... A" and says B, by five edges; and its task of token ids."""

from dataclasses import replace
from types import SimpleNamespace

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from language_toys import TokenModel
from patchclamp.subjects.clamp.batch import Pair, right_pad

TOKENS, LENGTH, PART = 16, 8, 16
EDGES = {
    ("embeddings", "v.0[0]"),
    ("head.0[0]", "k.1[0]"),
    ("embeddings", "q.1[0]"),
    ("embeddings", "v.1[0]"),
    ("head.1[0]", "logits"),
}


def _one_hot(target, source, size=1.0):
    """A map from one part of the stream (token, position, previous, output) to another."""
    block = torch.zeros(4 * PART, PART)
    block[source * PART : (source + 1) * PART] = torch.eye(PART) * size
    return block if target is None else block.T


def induction_model(seed=0, noise=0.02, sharp=0.6, planted=True):
    """Head 0.0 copies the token before into "previous", head 1.0 looks for it and copies to the output; three heads idle."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=TOKENS, n_embd=4 * PART, n_layer=2, n_head=4, n_positions=LENGTH, n_inner=8, tie_word_embeddings=False,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    for parameter in model.transformer.h.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, noise)
    if not planted:
        return model
    tokens, places = model.transformer.wte.weight.data, model.transformer.wpe.weight.data
    tokens.zero_()[:, :PART] = torch.eye(TOKENS)
    places.zero_()[:, PART : PART + LENGTH] = torch.eye(LENGTH)
    model.lm_head.weight.data.zero_()[:, 3 * PART :] = torch.eye(TOKENS)
    shift = torch.roll(torch.eye(PART), 1, 1)
    for layer, (query, key) in enumerate([(1, 1), (0, 2)]):
        attention = model.transformer.h[layer].attn
        q, k, v = (slice(i * 4 * PART, i * 4 * PART + PART) for i in range(3))
        weight = attention.c_attn.weight.data  # (inputs, outputs)
        weight[:, q] = _one_hot(None, query, sharp)
        weight[:, k] = _one_hot(None, key, sharp) @ (shift if layer == 0 else torch.eye(PART))
        weight[:, v] = _one_hot(None, 0, 0.2)
        attention.c_proj.weight.data[:PART] = _one_hot(0, 2 + layer)
    return model


class InductionModel(TokenModel):
    """The model with items of its own."""

    def pairs(self, task, batch_size=32):
        for first in range(0, len(task.clean), batch_size):
            rows = list(range(first, min(first + batch_size, len(task.clean))))
            clean, corrupted = (
                right_pad([side[r] for r in rows], rows) for side in (task.clean, task.corrupted)
            )
            answers = torch.tensor([task.answers[r] for r in rows])

            def metric(logits, reference=None, answers=answers):
                return logits.gather(1, answers[:, :1])[:, 0] - logits.gather(1, answers[:, 1:])[:, 0]

            yield Pair(clean, corrupted, metric, clean.last, {"end": clean.last})


class InductionTask(SimpleNamespace):
    """Clean and corrupted have the pair at the same place; all tokens differ."""

    name, metric_name, groups = "induction", "logit difference", ()

    def __len__(self):
        return len(self.clean)


def induction_task(n=16, seed=0):
    draw = torch.Generator().manual_seed(seed)
    clean, corrupted, answers = [], [], []
    for _ in range(n):
        order = torch.randperm(TOKENS, generator=draw)
        at = int(torch.randint(0, LENGTH - 3, (1,), generator=draw))
        sides = [order[:7].tolist(), order[7:14].tolist()]
        clean.append([*sides[0], sides[0][at]])
        corrupted.append([*sides[1], sides[1][at]])
        answers.append([sides[0][at + 1], sides[1][at + 1]])
    return InductionTask(clean=clean, corrupted=corrupted, answers=answers)


def area_of(graph):
    """AUROC of the sizes of a graph's edges against the planted ones."""
    truth = torch.zeros(graph.n, graph.n)
    for source, target in EDGES:
        truth[graph.nodes.index(target), graph.nodes.index(source)] = 1
    return graph.auroc(truth)


AT_ROLES = {
    ("embeddings@first", "v.0[0]@first"),
    ("v.0[0]@first", "head.0[0]@after"),
    ("head.0[0]@after", "k.1[0]@after"),
    ("k.1[0]@after", "head.1[0]@end"),
    ("embeddings@after", "v.1[0]@after"),
    ("v.1[0]@after", "head.1[0]@end"),
    ("embeddings@end", "q.1[0]@end"),
    ("q.1[0]@end", "head.1[0]@end"),
    ("head.1[0]@end", "logits"),
}


class InductionRoles(InductionModel):
    """The items know their places: the token seen before, the one after it, and the end; or, as a control, others.

    Parameters
    ----------
    shift
        By how many tokens the first two places are off, round the text before the end.
    """

    def __init__(self, model, shift=0):
        super().__init__(model)
        self.shift = shift

    def pairs(self, task, batch_size=32):
        for pair in super().pairs(task, batch_size):
            tokens = [task.clean[row] for row in pair.rows.tolist()]
            first = torch.tensor([row.index(row[-1]) for row in tokens])
            places = {
                name: (first + i + self.shift) % (LENGTH - 1) for i, name in enumerate(("first", "after"))
            }
            yield replace(pair, roles={**places, "end": pair.clean.last})
