"""Which texts go through the model together: windows that are held in memory, length-sorted batches inside."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from patchclamp.record.corpus import Corpus
from patchclamp.record.prefix import shared_groups


@dataclass(frozen=True)
class Window:
    """Pieces (documents) that are held in memory at once.

    Parameters
    ----------
    pieces
        Piece numbers in the order in which their samples are written.
    batches
        Lists of pieces that go through the model together, longest first.
    shared
        For each batch, with how many common tokens its pieces begin (0: nothing is shared).
    costs
        For each batch, the tokens that the model computes for it, padding counted.
    repeats
        piece -> later pieces of this window with the same tokens, which take its activity.
    copies
        (piece, piece of an earlier window) with the same tokens, whose activity is read back.
    start, stop
        The window's samples in the recording.
    """

    pieces: list[int]
    batches: list[list[int]]
    shared: list[int]
    costs: list[int]
    repeats: dict[int, list[int]]
    copies: list[tuple[int, int]]
    start: int
    stop: int


@dataclass(frozen=True)
class Schedule:
    """The whole pass, a function of nothing but the corpus and three numbers, so that a resumed run repeats it.

    Parameters
    ----------
    window_tokens, batch_tokens
        Most tokens a window holds; most tokens, with padding, a batch holds.
    overhead
        What a batch costs, in tokens, whatever its size.
    by_length
        Whether pieces are ordered by length over the whole corpus (for measures, which do not depend on order)
        or stay in the order of the data (for stores).
    read_back
        Whether repeats of earlier windows are read back instead of computed.
    share
        Shortest common beginning that is computed once; 0 for none.
    """

    window_tokens: int
    batch_tokens: int
    overhead: int
    by_length: bool
    read_back: bool
    share: int = 0

    def windows(self, corpus: Corpus) -> list[Window]:
        """Cut the corpus into windows, and each window into batches."""
        order = np.arange(len(corpus))
        if self.by_length:
            order = np.lexsort((order, corpus.twin, -corpus.length))
            if self.share:  # texts that begin alike have to meet in a window
                order = np.array(sorted(order.tolist(), key=lambda p: (corpus.tokens(p)[: self.share], p)))
        cuts = _cuts(corpus.length[order], self.window_tokens)
        out: list[Window] = []
        for a, b in pairwise(cuts):
            out.append(self._window(corpus, order[a:b].tolist(), out[-1].stop if out else 0))
        return out

    def _window(self, corpus: Corpus, pieces: list[int], start: int) -> Window:
        repeats: dict[int, list[int]] = {}
        copies, fresh, here = [], [], dict[int, int]()
        for piece in pieces:
            twin = int(corpus.twin[piece])
            first = here.setdefault(twin, piece)
            if first != piece and not (self.read_back and first != twin):
                repeats.setdefault(first, []).append(piece)
            elif self.read_back and twin != piece:
                copies.append((piece, twin))
            elif corpus.kept[piece]:
                fresh.append(piece)
        batches, shared, costs = self._batches(corpus, fresh)
        stop = start + int(corpus.kept[pieces].sum())
        return Window(pieces, batches, shared, costs, repeats, copies, start, stop)

    def _batches(self, corpus: Corpus, fresh: list[int]) -> tuple[list[list[int]], list[int], list[int]]:
        """Batches, the length of each one's common beginning, and the tokens computed."""
        if self.share:
            groups = shared_groups({piece: corpus.tokens(piece) for piece in fresh}, self.share)
        else:
            groups = [(0, sorted(fresh, key=lambda piece: (int(corpus.length[piece]), piece)))]
        batches, shared, costs = [], [], []
        for begin, order in groups:
            lengths = corpus.length[order] - begin if order else np.zeros(0, np.int64)
            # The longest first: if memory is too small, that shows at the beginning.
            for number, (a, b) in enumerate(cut_batches(lengths, self.batch_tokens, self.overhead)[::-1]):
                batches.append(order[a:b])
                shared.append(begin)
                costs.append((b - a) * int(lengths[b - 1]) + (begin if number == 0 else 0))
        return batches, shared, costs


def computed_tokens(windows: list[Window]) -> int:
    """Tokens that the model computes: padding counted, repeats and shared beginnings once."""
    return sum(sum(window.costs) for window in windows)


def _cuts(lengths: np.ndarray, most: int) -> list[int]:
    cuts, tokens = [0], 0
    for place, length in enumerate(lengths.tolist()):
        if tokens and tokens + length > most:
            cuts.append(place)
            tokens = 0
        tokens += length
    return [*cuts, len(lengths)]


def cut_batches(lengths: np.ndarray, batch_tokens: int, overhead: int) -> list[tuple[int, int]]:
    """Cut ascending lengths into batches [a, b) with the least total of rows * longest + overhead.

    Dynamic programme: best[b] = min over a of best[a] + (b - a) * lengths[b - 1] + overhead, with the batch's
    padded size at most `batch_tokens` (a single longer text is a batch of its own).

    Examples
    --------
    >>> cut_batches(np.array([2, 2, 9, 10]), 100, 5)
    [(0, 2), (2, 4)]
    """
    n = len(lengths)
    best = np.zeros(n + 1)
    cut = np.zeros(n + 1, dtype=np.int64)
    for b in range(1, n + 1):
        longest = int(lengths[b - 1])
        low = max(0, b - max(1, batch_tokens // max(longest, 1)))
        costs = best[low:b] + (b - np.arange(low, b)) * longest
        choice = int(np.argmin(costs))
        best[b], cut[b] = costs[choice] + overhead, low + choice
    ends = []
    while n:
        ends.append((int(cut[n]), n))
        n = int(cut[n])
    return ends[::-1]
