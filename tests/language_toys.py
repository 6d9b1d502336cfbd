"""A language model whose tasks are token ids, and such tasks: no tokenizer is needed."""

import torch

from patchclamp.subjects import LanguageModel
from patchclamp.subjects.clamp.batch import Pair, right_pad


class TokenTask:
    """Items given as token ids, with a role at a token that differs and one that not every item has."""

    name, metric_name, groups = "tokens", "contrast", ()

    def __init__(self, clean, corrupted):
        self.clean, self.corrupted = clean, corrupted

    def __len__(self):
        return len(self.clean)


class TokenModel(LanguageModel):
    """A language model whose tasks are token ids: no tokenizer is needed."""

    def pairs(self, task, batch_size=32):
        for first in range(0, len(task), batch_size):
            rows = list(range(first, min(first + batch_size, len(task))))
            clean = right_pad([task.clean[r] for r in rows], rows)
            corrupted = right_pad([task.corrupted[r] for r in rows], rows)
            sometimes = torch.where(clean.lengths > 5, 4, -1)
            roles = {"changed": torch.full_like(clean.last, 2), "fifth": sometimes, "end": clean.last}
            metric = lambda logits, reference=None: logits[:, 5] - logits[:, 6]
            yield Pair(clean, corrupted, metric, clean.last, roles)


def items(n=5, seed=0, vocabulary=97):
    draw = torch.Generator().manual_seed(seed)
    clean = [torch.randint(3, vocabulary, (5 + i % 3,), generator=draw).tolist() for i in range(n)]
    corrupted = [[*row[:2], (row[2] - 2) % (vocabulary - 3) + 3, *row[3:]] for row in clean]
    return TokenTask(clean, corrupted)
