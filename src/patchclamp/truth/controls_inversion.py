"""Feature inversion: networks that do their task by what their gradient points away from."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import softplus

from patchclamp.base.seeds import torch_rng
from patchclamp.subjects.module import TensorTask, TorchModule
from patchclamp.truth._digits import digit_images
from patchclamp.truth.base import Circuit, enter

DIMENSIONS, WIDTH, POINTS, EPOCHS = 10, 200, 4000, 40
DIGITS = (0, 1)
PIXELS, BLOCK_WIDTH, BLOCK_EPOCHS, PLACEMENTS = 64, 64, 10, 4


class OneHidden(nn.Module):
    """Inputs, one rectified hidden layer, one output: a logit."""

    def __init__(self, d: int, width: int, draw: torch.Generator) -> None:
        super().__init__()
        self.x = nn.Identity()
        self.hidden, self.relu, self.out = nn.Linear(d, width), nn.ReLU(), nn.Linear(width, 1)
        with torch.no_grad():
            for layer in (self.hidden, self.out):
                for parameter in layer.parameters():
                    bound = layer.in_features**-0.5
                    parameter.copy_((torch.rand(parameter.shape, generator=draw) * 2 - 1) * bound)

    def forward(self, inputs: Float[Tensor, "item d"]) -> Float[Tensor, "item 1"]:
        """Logits."""
        out: Tensor = self.out(self.relu(self.hidden(self.x(inputs))))
        return out


def train(
    net: OneHidden, x: Float[Tensor, "item d"], y: Float[Tensor, " item"], epochs: int, draw: torch.Generator
) -> None:
    """Logistic loss, plain gradient descent of step 0.1 on batches of 100; labels are -1 and 1."""
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=draw).split(100):
            loss = softplus(-y[batch] * net(x[batch])[:, 0]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    optimiser.zero_grad()
    net.eval()


def gradient_size(net: nn.Module, x: Float[Tensor, "item d"]) -> Float[Tensor, "item d"]:
    """Absolute gradient of the output by each coordinate of the input."""
    inputs = x.clone().requires_grad_(True)
    with torch.enable_grad():
        (found,) = torch.autograd.grad(net(inputs).sum(), inputs)
    return found.abs()


@lru_cache(maxsize=8)
def inversion_network(seed: int) -> tuple[OneHidden, dict[str, float]]:
    """The trained network of `feature_inversion`, and how often its gradients rank the signal first and last."""
    draw = torch_rng(seed)
    net = OneHidden(DIMENSIONS, WIDTH, draw)
    j = torch.randint(DIMENSIONS, (POINTS,), generator=draw)
    y = torch.randint(2, (POINTS,), generator=draw) * 2.0 - 1
    train(net, torch.eye(DIMENSIONS)[j] * y[:, None], y, EPOCHS, draw)
    every = torch.cat([torch.eye(DIMENSIONS), -torch.eye(DIMENSIONS)])
    signs = torch.ones(2 * DIMENSIONS)
    signs[DIMENSIONS:] = -1
    signal = torch.arange(DIMENSIONS).repeat(2)
    size = gradient_size(net, every)
    with torch.no_grad():
        accuracy = float((net(every)[:, 0] * signs > 0).double().mean())
    return net, {
        "accuracy": accuracy,
        "gradient_top": float((size.argmax(1) == signal).double().mean()),
        "gradient_bottom": float((size.argmin(1) == signal).double().mean()),
    }


def feature_inversion(seed: int = 0) -> Circuit:
    """Train one hidden layer on x = y e_j, where the label y is at a random coordinate j; all else is 0.

    The network learns the sum of coordinates through rectified units that are off where they would matter: at an input
    y e_j the gradient is *smaller* at j than elsewhere, as units that push the right way at j are saturated. Gradients
    rank the one coordinate that carries the label last; gradient times difference from the zero input is right, as
    every other coordinate is zero there. Items are y e_j for one j (the seed's) against the zero input, metric y f(x).

    Returns
    -------
    Circuit
        One node of ten is true. `data`: the accuracy, and over all inputs how often the largest (``gradient_top``) and
        the smallest (``gradient_bottom``) absolute gradient is at the signal; chance is 0.1.

    Notes
    -----
    Shah, Jain and Netrapalli 2021, at a width of 200 instead of 25,000. Trains in about a second, and is kept.

    Examples
    --------
    >>> circuit = feature_inversion()
    >>> circuit.data["accuracy"], circuit.data["gradient_top"], circuit.data["gradient_bottom"] > 0.3
    (1.0, 0.0, True)
    """
    net, facts = inversion_network(seed)
    signal = seed % DIMENSIONS
    y = torch.tensor([1.0, -1.0]).repeat(4)
    clean = y[:, None] * torch.eye(DIMENSIONS)[signal]
    subject = TorchModule(net, clean[:1], "truth:feature-inversion")
    task = TensorTask("feature-inversion", clean, torch.zeros_like(clean), _signed, targets=y)
    with torch.no_grad():
        effect = float((_signed(net(clean), y) - _signed(net(torch.zeros_like(clean)), y)).double().mean())
    known = {f"x.out[{i}]": effect if i == signal else 0.0 for i in range(DIMENSIONS)}
    return Circuit(
        subject,
        task,
        ("x.out",),
        nodes={address: value != 0 for address, value in known.items()},
        effects={"noising": known, "denoising": known, "shapley": known},
        tolerance=1e-5,
        data={**facts, "signal": signal},
    )


def _signed(out: Float[Tensor, "item 1"], y: Float[Tensor, " item"]) -> Float[Tensor, " item"]:
    return y * out[:, 0]


@lru_cache(maxsize=8)
def _blocks(seed: int) -> tuple[OneHidden, dict[str, Any]]:
    """The trained network, test images with the digit on top by class, and what was measured."""
    draw = torch_rng(seed)
    images, classes = digit_images()
    chosen = ((classes == DIGITS[0]) | (classes == DIGITS[1])).nonzero()[:, 0]
    chosen = chosen[torch.randperm(len(chosen), generator=draw)]
    test, rest = chosen[:64], chosen[64:].repeat(PLACEMENTS)
    top = torch.rand(len(rest), generator=draw) < 0.5
    net = OneHidden(2 * PIXELS, BLOCK_WIDTH, draw)
    labels = (classes == DIGITS[1]).float() * 2 - 1
    train(net, _stacked(images[rest], top), labels[rest], BLOCK_EPOCHS, draw)
    up = torch.arange(len(test)) % 2 == 0
    x = _stacked(images[test], up)
    mass = gradient_size(net, x).view(-1, 2, PIXELS).sum(2)
    signal = torch.where(up, mass[:, 0], mass[:, 1]) / mass.sum(1)
    with torch.no_grad():
        accuracy = float((net(x)[:, 0] * labels[test] > 0).double().mean())
    return net, {"accuracy": accuracy, "gradient_in_signal": float(signal.mean()), "test": test}


def _stacked(images: Float[Tensor, "item 8 8"], top: Bool[Tensor, " item"]) -> Float[Tensor, "item pixel"]:
    """Digit above the null block where `top`, below it elsewhere."""
    digit = images.flatten(1)
    null = null_block().flatten().expand_as(digit)
    over, under = torch.cat([digit, null], 1), torch.cat([null, digit], 1)
    return torch.where(top[:, None], over, under).float()


def null_block() -> Float[Tensor, "8 8"]:
    """A square with a cross in it, in light grey; the same in every image, so that it says nothing of the class."""
    block = torch.zeros(8, 8, dtype=torch.float64)
    steps: Int[Tensor, " step"] = torch.arange(8)
    block[steps, steps] = block[steps, 7 - steps] = 1
    block[0] = block[7] = 1
    block[:, 0] = block[:, 7] = 1
    return block * 15 / 16


def block_digits(seed: int = 0) -> Circuit:
    """Train one hidden layer to tell two digits apart in images where an uninformative block stands above or below.

    The gradient of the trained network is spread over both blocks; `data["gradient_in_signal"]` is the share of its
    size in the digit's. Items: test images with the digit on top, against the digit of the other class with the same
    null block below. Pixels of the null block are equal in both runs and must score exactly 0.

    Returns
    -------
    Circuit
        `nodes`: true for pixels of the upper block that differ in any item.

    Notes
    -----
    A small form of BlockMNIST (Shah et al. 2021) from scikit-learn's 8 x 8 digits 0 and 1; nothing is downloaded.

    Examples
    --------
    >>> circuit = block_digits()
    >>> circuit.data["accuracy"] > 0.98, 0.4 < circuit.data["gradient_in_signal"] < 0.65
    (True, True)
    """
    net, facts = _blocks(seed)
    images, classes = digit_images()
    test = facts["test"]
    first, second = (test[classes[test] == digit][:16] for digit in DIGITS)
    n = min(len(first), len(second))
    clean, corrupted = torch.cat([first[:n], second[:n]]), torch.cat([second[:n], first[:n]])
    top = torch.ones(2 * n, dtype=torch.bool)
    x, other = _stacked(images[clean], top), _stacked(images[corrupted], top)
    y = (classes[clean] == DIGITS[1]).float() * 2 - 1
    subject = TorchModule(net, x[:1], "truth:block-digits")
    differs = (x != other).any(0).tolist()
    return Circuit(
        subject,
        TensorTask("block-digits", x, other, _signed, targets=y),
        ("x.out",),
        nodes={f"x.out[{i}]": differ for i, differ in enumerate(differs)},
        data={name: value for name, value in facts.items() if name != "test"},
    )


enter(
    "feature-inversion",
    "circuit",
    feature_inversion,
    "x = y e_j: the gradient ranks the one coordinate that matters last, gradient times difference first",
    "Shah et al. 2021 (feature inversion)",
)
enter(
    "block-digits",
    "circuit",
    block_digits,
    "digits beside a block that says nothing, into which gradients leak",
    "BlockMNIST: Shah et al. 2021, on scikit-learn's digits",
)
