"""Adam: steps of about the size of the learning rate, whatever the size of the gradient.

With gradient g of a parameter w at step k = 1, 2, ..., learning rate lr and weight decay d:

    g = g + d*w                          Adam: d/2 * ||w||**2 added to the loss            (1)
    m = beta1*m + (1 - beta1)*g          running mean of the gradients, first m = 0        (2)
    v = beta2*v + (1 - beta2)*g**2       running mean of their squares, first v = 0        (3)
    m_hat = m / (1 - beta1**k)           bias correction: of k equal gradients g           (4)
    v_hat = v / (1 - beta2**k)           these means are g and g**2                        (5)
    w = w - lr * m_hat / (sqrt(v_hat) + eps)                                               (6)

The weights of the k gradients in m, (1 - beta1) * beta1**i for i < k, add up to only 1 - beta1**k:
the rest belongs to the 0 at which m starts.

AdamW takes the decay out of the gradient, because (6) would divide it by sqrt(v_hat), and weights
with large gradients would decay less. In place of (1) it has

    w = w - lr*d*w                       AdamW                                             (7)

Source: D. Kingma, J. Ba, "Adam: a method for stochastic optimization", ICLR 2015;
I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", ICLR 2019, for AdamW.
"""

from collections.abc import Mapping

import numpy as np

from minicnn.arguments import fraction, integer, positive, require
from minicnn.backend import Array, array_module
from minicnn.optimizers import Numbers, Optimizer


class Adam(Optimizer):
    """Steps of about `lr` for each entry.

    betas are two numbers in [0, 1), eps > 0; Optimizer explains the other arguments. `mean` and
    `mean_square` map names of parameters to m and v, and keep these arrays.
    """

    kept = ("mean", "mean_square")

    def __init__(
        self,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decay_biases: bool = True,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, decay_biases, clip_norm)
        is_pair = isinstance(betas, (tuple, list)) and len(betas) == 2
        require(is_pair, "betas must be two numbers in [0, 1)", betas)
        self.betas = fraction("beta1", betas[0]), fraction("beta2", betas[1])
        self.eps = positive("eps", eps)
        self.mean: dict[str, Array] = {}
        self.mean_square: dict[str, Array] = {}

    @property
    def state(self) -> dict[str, Array]:
        return super().state | {"step": np.array(self.steps)}

    def load_state(self, state: Mapping[str, Array]) -> None:
        require(isinstance(state, Mapping), "state must map names to arrays", state)
        owner = type(self).__name__
        require("step" in state, f"the state of {owner} must have the entry step", list(state))
        step = state["step"]
        array_module(step)
        is_count = step.dtype.kind in "iu" and step.size == 1
        require(is_count, "state['step'] must be an array of one integer", step)
        steps = integer("state['step']", step.item(), 0)
        super().load_state({name: array for name, array in state.items() if name != "step"})
        self.steps = steps

    def _numbers(self, ahead: int = 0) -> Numbers:
        k = self.steps + ahead + 1
        return [self.lr, *(1 - beta**k for beta in self.betas)]

    def _update(self, name: str, w: Array, g: Array, decay: float, numbers: Numbers) -> None:
        xp, (beta1, beta2), (lr, sum1, sum2) = array_module(w), self.betas, numbers
        m = self.mean.setdefault(name, xp.zeros_like(w))
        v = self.mean_square.setdefault(name, xp.zeros_like(w))
        if decay:
            g = g + decay * w  # (1)
        m *= beta1
        m += (1 - beta1) * g  # (2)
        v *= beta2
        v += (1 - beta2) * g * g  # (3)
        m_hat = m / sum1  # (4)
        v_hat = v / sum2  # (5)
        w -= lr * m_hat / (xp.sqrt(v_hat) + self.eps)  # (6)


class AdamW(Adam):
    """Adam whose weight decay shrinks the weights directly and leaves the gradient alone."""

    def __init__(
        self,
        lr: float = 0.001,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        decay_biases: bool = True,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(
            *(lr, betas, eps, weight_decay), decay_biases=decay_biases, clip_norm=clip_norm
        )

    def _update(self, name: str, w: Array, g: Array, decay: float, numbers: Numbers) -> None:
        if decay:
            w -= numbers[0] * (decay * w)  # (7)
        super()._update(name, w, g, 0.0, numbers)
