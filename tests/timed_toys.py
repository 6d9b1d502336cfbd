"""Small networks with time, written as users write them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Step(nn.Module):
    """h' = A h + B x."""

    def __init__(self, n_in: int, n: int) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(n, n) / n**0.5)
        self.B = nn.Parameter(torch.randn(n, n_in))

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return h @ self.A.T + x @ self.B.T


class LinearRNN(nn.Module):
    """A loop over `Step`; the output reads the last state."""

    def __init__(self, n_in: int = 3, n: int = 6) -> None:
        super().__init__()
        self.step = Step(n_in, n)
        self.readout = nn.Linear(n, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(len(x), self.step.A.shape[0], dtype=x.dtype)
        for t in range(x.shape[1]):
            h = self.step(x[:, t], h)
        return self.readout(h)


class _Surrogate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v > 1).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (v,) = ctx.saved_tensors
        return gradient / (1 + 5 * (v - 1).abs()) ** 2


class Spike(nn.Module):
    """A hard threshold, with a surrogate gradient or without one."""

    def __init__(self, surrogate: bool) -> None:
        super().__init__()
        self.surrogate = surrogate

    def forward(self, v: Tensor) -> Tensor:
        return _Surrogate.apply(v) if self.surrogate else (v > 1).to(v.dtype)


class LIF(nn.Module):
    """Leaky integrate-and-fire neurons in a loop; the output sums what the readout makes of the spikes."""

    def __init__(self, surrogate: bool = True, n: int = 10) -> None:
        super().__init__()
        self.fc, self.spike, self.readout = nn.Linear(3, n), Spike(surrogate), nn.Linear(n, 2)

    def forward(self, x: Tensor) -> Tensor:
        v = torch.zeros(len(x), self.fc.out_features)
        out = torch.zeros(len(x), 2)
        for t in range(x.shape[1]):
            v = 0.9 * v + 2 * self.fc(x[:, t])
            spikes = self.spike(v)
            v = v - spikes
            out = out + self.readout(spikes)
        return out


class CellLoop(nn.Module):
    """A loop over an LSTMCell."""

    def __init__(self, n: int = 8) -> None:
        super().__init__()
        self.cell, self.readout = nn.LSTMCell(3, n), nn.Linear(n, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.zeros(len(x), self.cell.hidden_size)
        for t in range(x.shape[1]):
            h, c = self.cell(x[:, t], (h, c))
        return self.readout(h)


class Recurrent(nn.Module):
    """torch's own recurrent layer, with items or time first, read at every step."""

    def __init__(self, kind: str, batch_first: bool) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(3, 8, num_layers=2, batch_first=batch_first)
        self.readout = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.rnn(x)[0])


class Universal(nn.Module):
    """One block, applied four times to a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.readout = nn.Linear(3, 8), nn.Linear(8, 2)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        for _ in range(4):
            h = self.block(h)
        return self.readout(h.mean(1))


class TwoInputs(nn.Module):
    """A stimulus in time, and a context without."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.rnn, self.readout = nn.Linear(2, 8), nn.GRU(3, 8, batch_first=True), nn.Linear(8, 2)

    def forward(self, stimulus: Tensor, context: Tensor) -> Tensor:
        return self.readout(self.rnn(stimulus)[0][:, -1] * torch.sigmoid(self.gate(context)))


class Halting(nn.Module):
    """Stops as soon as all items of a batch have had enough."""

    def __init__(self) -> None:
        super().__init__()
        self.add = nn.Linear(1, 1)
        self.add.weight.data.fill_(1.0)
        self.add.bias.data.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(20):
            if bool((x > 5).all()):
                break
            x = self.add(x)
        return x


def inputs(n: int = 12, steps: int = 5, seed: int = 0) -> Tensor:
    """(item, step, 3)."""
    return torch.randn(n, steps, 3, generator=torch.Generator().manual_seed(seed))


def made(kind: type[nn.Module], *args: Any, **options: Any) -> nn.Module:
    """A network with fixed weights, in evaluation mode."""
    torch.manual_seed(0)
    return kind(*args, **options).eval()
