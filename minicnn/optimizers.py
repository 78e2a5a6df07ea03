"""Stochastic gradient descent.

With gradient g of a parameter w, learning rate lr, momentum m and weight decay d:

    g = g + d*w                            d/2 * ||w||**2 added to the loss                (1)
    v = m*v + g                            a decaying sum of the gradients, first v = g    (2)
    g = v, or with Nesterov g = g + m*v    v again, as if the next gradient were g too     (3)
    w = w - lr*g                                                                           (4)

Large steps at first, to get on, and small ones at last, to settle: half a cosine takes lr from its
full size to 0. After a share t of the training, between 0 and 1, lr is multiplied by

    cosine(t) = (1 + cos(pi*t)) / 2                                                        (5)

Source: B. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964;
Y. Bengio, N. Boulanger-Lewandowski, R. Pascanu, "Advances in optimizing recurrent networks", ICASSP
2013, section 3.5, for Nesterov in this form, with lr taken out of v as PyTorch does; I. Loshchilov,
F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, for the cosine.
"""

import math
from collections.abc import Mapping

from minicnn.arguments import finite, flag, positive, require
from minicnn.backend import Array
from minicnn.checks import check_device, check_float

VELOCITY = "velocity."


class SGD:
    """Steps of size `lr` against the gradient.

    momentum is in [0, 1), weight_decay >= 0, `nesterov` needs momentum. `velocity` holds v by
    parameter name, from the first step on.

    Of any optimizer, `state` is what its steps leave for later ones: a dictionary of arrays under
    names of its own, which `load_state` takes back. Checkpoints keep it as it is.
    """

    def __init__(
        self, lr: float, momentum: float = 0.0, nesterov: bool = False, weight_decay: float = 0.0
    ) -> None:
        self.lr = positive("lr", lr)
        if not 0 <= finite("momentum", momentum) < 1:
            raise ValueError(f"momentum must be in [0, 1), got {momentum}")
        if finite("weight_decay", weight_decay) < 0:
            raise ValueError(f"weight_decay must be a finite number >= 0, got {weight_decay}")
        self.nesterov = flag("nesterov", nesterov)
        if self.nesterov and not momentum:
            raise ValueError("nesterov needs momentum > 0, got 0")
        self.momentum = float(momentum)
        self.weight_decay = float(weight_decay)
        self.velocity: dict[str, Array] = {}

    @property
    def state(self) -> dict[str, Array]:
        """v of each parameter, itself and not a copy, as "velocity.0.weight"."""
        return {VELOCITY + name: v for name, v in self.velocity.items()}

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Copies the state of another SGD in. Raises ValueError, and changes nothing, for names
        or arrays that are none."""
        require(isinstance(state, Mapping), "state must map names to arrays", state)
        for name, array in state.items():
            known = isinstance(name, str) and name.startswith(VELOCITY)
            require(known, f"the state of SGD is named {VELOCITY}PARAMETER", name)
            check_float("SGD", array, f"state[{name!r}]")
        self.velocity = {name.removeprefix(VELOCITY): v.copy() for name, v in state.items()}

    def step(self, params: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
        """Updates every array of `params` in place. Raises ValueError, and changes nothing, unless
        all are floats on one device, `grads` has the names and shapes of `params`, and so have the
        parameters of earlier steps."""
        self._check(params, grads)
        for name, w in params.items():
            g = grads[name]
            if self.weight_decay:
                g = g + self.weight_decay * w  # (1)
            if self.momentum:
                v = self.velocity[name] = self.momentum * self.velocity.get(name, 0.0) + g  # (2)
                g = g + self.momentum * v if self.nesterov else v  # (3)
            w -= self.lr * g  # (4)

    def _check(self, params: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
        for kind, arrays in (("params", params), ("grads", grads)):
            require(isinstance(arrays, Mapping), f"{kind} must map names to arrays", arrays)
            for name, array in arrays.items():
                check_float("SGD", array, f"{kind}[{name!r}]")
        expected, given, earlier = (
            {name: array.shape for name, array in arrays.items()}
            for arrays in (params, grads, self.velocity)
        )
        if given != expected:
            raise ValueError(f"expected gradients of shapes {expected} but got {given}")
        if self.velocity and earlier != expected:
            raise ValueError(
                f"this optimizer has the velocity of parameters of shapes {earlier} but was given "
                f"{expected}: make a new optimizer for another network"
            )
        for name, w in params.items():
            check_device("SGD", f"the gradient of {name}", grads[name], w)
            check_device("SGD", f"the velocity of {name}", self.velocity.get(name, w), w)
            if not getattr(w.flags, "writeable", True):  # which arrays of CuPy always are
                raise ValueError(f"parameter {name} is read-only: replace it by a copy of it")


def constant(progress: float) -> float:
    """No schedule: 1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """The factor of the learning rate after a share `progress` of the training, from 1 to 0."""
    require(0 <= finite("progress", progress) <= 1, "progress must be from 0 to 1", progress)
    return (1 + math.cos(math.pi * progress)) / 2  # (5)


SCHEDULES = {"constant": constant, "cosine": cosine}
