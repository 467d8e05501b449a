"""python docs/identity.py: draws docs/images/identity.svg, the identity of docs/method.md measured.

A linear student and made-up logits of the size of a teacher's: for each sigma the mini-batch loss
and its gradient with the noise drawn anew many times, beside what the identity says.
"""

from pathlib import Path

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch.nn.functional import linear

from noisy_kd.method import LogitNoise, logit_regression

ALPHA, BATCH, CLASSES, INPUTS, DRAWS = 0.5, 64, 10, 50, 4000
SIGMAS = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]


def measure() -> list[tuple[float, float, float, float]]:
    """For each sigma: excess loss, what the identity says, bias and noise of the gradient."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, INPUTS, generator=generator)
    z = 5 * torch.randn(BATCH, CLASSES, generator=generator)
    weight = torch.randn(CLASSES, INPUTS, generator=generator, requires_grad=True)
    clean = logit_regression(linear(x, weight), z)
    (gradient,) = torch.autograd.grad(clean, weight)
    rows = []
    for sigma in SIGMAS:
        noise, losses, gradients = LogitNoise(ALPHA, sigma), [], []
        for _ in range(DRAWS):
            loss = logit_regression(linear(x, weight), noise(z, generator))
            losses.append(loss.detach())
            gradients.append(torch.autograd.grad(loss, weight)[0])
        all_gradients = torch.stack(gradients)
        excess = torch.stack(losses).mean() - clean.detach()
        said = ALPHA * sigma**2 * z.square().sum() / (2 * BATCH)
        bias = (all_gradients.mean(0) - gradient).norm() / gradient.norm()
        spread = all_gradients.std(0).norm() / gradient.norm()
        rows.append((float(excess), float(said), float(bias), float(spread)))
    return rows


def main() -> None:
    """Measure and draw."""
    excess, said, bias, spread = zip(*measure(), strict=True)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(SIGMAS, said, color="tab:gray", label="ασ²‖z‖²/2, which no weight enters")
    left.plot(SIGMAS, excess, "o", color="tab:blue", label="measured: E[noisy loss] − clean loss")
    left.set_ylabel("excess loss")
    right.plot(SIGMAS, spread, "o-", color="tab:orange", label="its standard deviation, one step")
    right.plot(SIGMAS, bias, "o-", color="tab:blue", label=f"its mean over {DRAWS:,} draws − clean")
    right.set_ylabel("gradient, of the clean one's norm")
    for plot in (left, right):
        plot.set_xlabel("σ")
        plot.legend(fontsize="small")
    file = Path(__file__).parent / "images" / "identity.svg"
    with rc_context({"svg.hashsalt": "identity"}):  # the same file each time
        figure.savefig(file, metadata={"Date": None})


if __name__ == "__main__":
    main()
