"""Stochastic gradient descent.

With gradient g of a parameter w, learning rate lr, momentum m and weight decay d:

    g = g + d*w                            d/2 * ||w||**2 added to the loss                (1)
    v = m*v + g                            a decaying sum of the gradients, first v = g    (2)
    g = v, or with Nesterov g = g + m*v    v again, as if the next gradient were g too     (3)
    w = w - lr*g                                                                           (4)

Before that, the gradients g of all parameters, seen as one vector, may be clipped to a length:

    g = g * min(1, clip_norm / (||g|| + 1e-6))                                             (5)

Large steps make progress early in training; small ones settle at the end. A schedule gives the
factor of lr when the share `done` of the training is over. Far from any minimum full steps may
diverge, so warm-up rises to them over a share `rise`, and another schedule has the rest:

    cosine(done) = (1 + cos(pi*done)) / 2                                                  (6)
    linear(done) = 1 - done                                                                (7)
    warmup(done) = 0.1 + 0.9*done/rise  where done < rise, else
        schedule((done - rise) / (1 - rise))                                               (8)

Warm-up starts at a tenth because the first step would do nothing with a rate of 0.

Source: B. Polyak, "Some methods of speeding up the convergence of iteration methods", 1964;
Y. Bengio, N. Boulanger-Lewandowski, R. Pascanu, "Advances in optimizing recurrent networks", ICASSP
2013, section 3.5, for Nesterov in this form, with lr taken out of v as PyTorch does; R. Pascanu,
T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, for
(5); I. Loshchilov, F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017,
for the cosine; P. Goyal et al., "Accurate, large minibatch SGD", 2017, section 2.2, for warm-up.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from minicnn.arguments import finite, flag, fraction, positive, require, share
from minicnn.backend import Array, array_module
from minicnn.checks import check_device, check_float

Schedule = Callable[[float], float]

Numbers = Sequence[float | Array]
"""What differs between the steps of an optimizer beside the gradients, such as the learning rate:
Python's numbers or, in a step recorded for a GPU, arrays without axes there."""


class Optimizer:
    """What all optimizers share: checks, weight decay, clipping, and the state.

    A subclass lists in `kept` its attributes that map names of parameters to arrays, and updates
    one parameter in `_update`. `steps` counts the steps taken.

    `state` is what its steps leave for later ones: a dictionary of named arrays, which `load_state`
    takes back. Checkpoints store it unchanged.

    weight_decay: >= 0
    decay_biases: whether parameters with one axis, biases and those of batch norm, decay too
    clip_norm: the greatest length of all gradients as one vector; None for no limit
    """

    kept: tuple[str, ...] = ()

    def __init__(
        self, lr: float, weight_decay: float, decay_biases: bool, clip_norm: float | None
    ) -> None:
        self.lr = positive("lr", lr)
        if finite("weight_decay", weight_decay) < 0:
            raise ValueError(f"weight_decay must be a finite number >= 0, got {weight_decay}")
        self.weight_decay = float(weight_decay)
        self.decay_biases = flag("decay_biases", decay_biases)
        self.clip_norm = None if clip_norm is None else positive("clip_norm", clip_norm)
        self.steps = 0

    @property
    def state(self) -> dict[str, Array]:
        """The arrays themselves, not copies, under names like "velocity.0.weight"."""
        return {
            f"{kind}.{name}": array
            for kind in self.kept
            for name, array in getattr(self, kind).items()
        }

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Copies in the state of another optimizer of this class. Raises ValueError, and changes
        nothing, if a name or an array does not belong in it."""
        require(isinstance(state, Mapping), "state must map names to arrays", state)
        loaded: dict[str, dict[str, Array]] = {kind: {} for kind in self.kept}
        owner, named = type(self).__name__, " or ".join(f"{kind}.PARAMETER" for kind in self.kept)
        for name, array in state.items():
            kind, _, parameter = name.partition(".") if isinstance(name, str) else ("", "", "")
            require(kind in loaded, f"the names in the state of {owner} must be {named}", name)
            check_float(owner, array, f"state[{name!r}]")
            loaded[kind][parameter] = array.copy()
        for kind, arrays in loaded.items():
            setattr(self, kind, arrays)

    def step(self, params: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
        """Updates every array of `params` in place. Raises ValueError, and changes nothing, unless
        all are floats on one device, and `grads` and the parameters of earlier steps have the
        names and shapes of `params`."""
        self._step(params, grads, self._numbers())

    def _step(
        self, params: Mapping[str, Array], grads: Mapping[str, Array], numbers: Numbers
    ) -> None:
        self._check(params, grads)
        if self.clip_norm is not None and grads:
            grads = _clipped(grads, self.clip_norm)
        for name, w in params.items():
            decays = self.decay_biases or w.ndim > 1
            self._update(name, w, grads[name], self.weight_decay if decays else 0.0, numbers)
        self.steps += 1

    def _numbers(self, ahead: int = 0) -> Numbers:
        """Those of the step after `ahead` others: the learning rate, and what a subclass adds."""
        return [self.lr]

    def _update(self, name: str, w: Array, g: Array, decay: float, numbers: Numbers) -> None:
        """Updates w in place, and leaves g unchanged."""
        raise NotImplementedError

    def _check(self, params: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
        owner = type(self).__name__
        for kind, arrays in (("params", params), ("grads", grads)):
            require(isinstance(arrays, Mapping), f"{kind} must map names to arrays", arrays)
            for name, array in arrays.items():
                check_float(owner, array, f"{kind}[{name!r}]")
        expected, given = _shapes(params), _shapes(grads)
        if given != expected:
            raise ValueError(f"expected gradients of shapes {expected} but got {given}")
        places = {"gradient": grads}
        for kind in self.kept:
            places[kind] = earlier = getattr(self, kind)
            if earlier and _shapes(earlier) != expected:
                raise ValueError(
                    f"this optimizer has the {kind} of parameters of shapes {_shapes(earlier)} but "
                    f"was given {expected}: make a new optimizer for each network"
                )
        for name, w in params.items():
            for kind, arrays in places.items():
                check_device(owner, f"the {kind} of {name}", arrays.get(name, w), w)
            if not getattr(w.flags, "writeable", True):  # arrays of CuPy always are
                raise ValueError(f"parameter {name} is read-only: replace it by a copy")


class SGD(Optimizer):
    """Steps of size `lr` against the gradient.

    momentum is in [0, 1), `nesterov` needs momentum; Optimizer explains the other arguments.
    `velocity` maps names of parameters to v, from the first step on, and keeps these arrays.
    """

    kept = ("velocity",)

    def __init__(
        self,
        lr: float,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        decay_biases: bool = True,
        clip_norm: float | None = None,
    ) -> None:
        super().__init__(lr, weight_decay, decay_biases, clip_norm)
        self.momentum = fraction("momentum", momentum)
        self.nesterov = flag("nesterov", nesterov)
        if self.nesterov and not momentum:
            raise ValueError("nesterov needs momentum > 0, got 0")
        self.velocity: dict[str, Array] = {}

    def _update(self, name: str, w: Array, g: Array, decay: float, numbers: Numbers) -> None:
        (lr,) = numbers
        if decay:
            g = g + decay * w  # (1)
        if self.momentum:
            if name in self.velocity:
                self.velocity[name] *= self.momentum
                self.velocity[name] += g  # (2)
            else:
                self.velocity[name] = g.copy()  # (2)
            v = self.velocity[name]
            g = g + self.momentum * v if self.nesterov else v  # (3)
        w -= lr * g  # (4)


def _shapes(arrays: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in arrays.items()}


def _clipped(grads: Mapping[str, Array], largest: float) -> dict[str, Array]:
    norm = sum((g * g).sum() for g in grads.values()) ** 0.5
    factor = array_module(norm).minimum(largest / (norm + 1e-6), 1)
    return {name: g * factor.astype(g.dtype) for name, g in grads.items()}  # (5)


def constant(progress: float) -> float:
    """No schedule: 1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """The factor of the learning rate after a share `progress` of the training: from 1 to 0."""
    return (1 + math.cos(math.pi * share("progress", progress))) / 2  # (6)


def linear(progress: float) -> float:
    """The same, along a straight line."""
    return 1 - share("progress", progress)  # (7)


def warmup(schedule: Schedule, rise: float) -> Schedule:
    """A schedule that rises from 0.1 to 1 over the first share `rise` of the training, between 0
    and 1, and spreads `schedule` over the rest."""
    require(callable(schedule), "schedule must be a function, such as cosine", schedule)
    require(0 < finite("rise", rise) < 1, "rise must be between 0 and 1", rise)

    def risen(progress: float) -> float:
        if share("progress", progress) < rise:
            return 0.1 + 0.9 * progress / rise  # (8)
        return schedule((progress - rise) / (1 - rise))  # (8)

    return risen


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "cosine": cosine,
    "warmup-cosine": warmup(cosine, 0.1),
    "triangle": warmup(linear, 0.2),
}
