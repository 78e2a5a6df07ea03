"""Adding up what several processes have worked out, in one order for any division of the work.

Numbered terms are added in pairs, then pairs of pairs, and so on; what is left over at the end is
added from the right:

    t_0 + ... + t_6 = ((t_0 + t_1) + (t_2 + t_3)) + ((t_4 + t_5) + t_6)                    (1)

Rounding depends on that order alone. A process that has consecutive terms can add up most of them
before the others are known: of t_1 to t_5, say, t_2 + t_3 and t_4 + t_5.
"""

import copy
from typing import Any, NamedTuple

Term = dict[str, Any]  # arrays, and numbers


class Block(NamedTuple):
    """The sum of `size` terms from number `first` on, where `size` is a power of 2 that divides
    `first`."""

    first: int
    size: int
    total: Term


class OrderedSum:
    """Adds up terms that arrive in order, from number `first` on; of n terms it keeps about
    2 log2(n) sums at most. A term that has to wait for its partner is copied."""

    def __init__(self, first: int = 0) -> None:
        self.blocks: list[Block] = []
        self.next = first

    def add(self, term: Term, size: int = 1) -> None:
        """Adds the next term, or, with a `size`, the sum of so many, from a block of another
        OrderedSum."""
        first, total, waits = self.next, term, True
        self.next += size
        while self.blocks:
            left = self.blocks[-1]
            if left.size != size or left.first % (2 * size):
                break
            self.blocks.pop()
            first, size, total, waits = left.first, 2 * size, _added(left.total, total), False
        self.blocks.append(Block(first, size, _copied(total) if waits else total))

    def total(self) -> Term:
        """The sum of all terms, if `first` was 0."""
        *others, last = self.blocks
        total = last.total
        for block in reversed(others):
            total = _added(block.total, total)
        return total


def _added(left: Term, right: Term) -> Term:
    for name, array in right.items():
        left[name] += array  # (1)
    return left


def _copied(term: Term) -> Term:
    return {name: copy.copy(array) for name, array in term.items()}
