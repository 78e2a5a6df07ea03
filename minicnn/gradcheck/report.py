"""What a gradient check found: the comparisons, what is wrong, and what was not checked."""

import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minicnn.arguments import Shape
from minicnn.text import align

CHECKER = {Path(__file__).with_name(f"{name}.py") for name in ("check", "differences", "protocol")}
FRAMES = 3  # the last ones of a traceback


@dataclass(frozen=True)
class Finding:
    """Something that is wrong.

    name: the array it is about: "x" or a parameter for a gradient, or "y", "dy", "saved"
    cause: a guess at the mistake, or None
    check: the name of the check that found it, as in `Report.checked`
    traceback: where the layer raised an exception, if it did
    """

    name: str
    message: str
    cause: str | None = None
    check: str = ""
    traceback: str = ""

    def __str__(self) -> str:
        return f"{self.message}. Likely cause: {self.cause or 'unknown'}"

    @property
    def gradient(self) -> str:
        """`name`, under its name in version 0.1."""
        return self.name


@dataclass(frozen=True)
class Comparison:
    """One gradient, compared with central differences.

    error: the largest difference, relative to the largest entry; along one direction, relative to
        the length of the gradient
    index: the entry with the largest error; None if only one direction or nothing was compared
    kinks: how many entries lie at a kink or tie, where any slope between left and right will do
    unchecked: which part of the gradient was not compared, and why
    """

    gradient: str
    shape: Shape
    error: float
    index: tuple[int, ...] | None
    kinks: int
    ok: bool
    unchecked: tuple[str, ...] = ()

    def excused(self) -> "Comparison":
        """The same comparison when a kink is known to cause the difference."""
        reason = "at all, since its layers are at kinks, and right one by one"
        kinks = max(1, self.kinks)
        return replace(self, error=0.0, index=None, kinks=kinks, ok=True, unchecked=(reason,))

    def cells(self) -> tuple[str, ...]:
        where = "a direction" if self.index is None else str(list(self.index))
        verdict = "ok" if self.ok else "WRONG"
        if self.kinks:
            verdict += f", kinks or ties: {self.kinks}"
        return self.gradient, " x ".join(map(str, self.shape)), f"{self.error:.0e}", where, verdict


@dataclass(frozen=True)
class Report:
    """What `check_gradients` found. Printed, it is a table, followed by what is wrong and what was
    not checked.

    checked: the names of the checks that ran, in order
    unchecked: what was not checked, and why, one line for each
    """

    layer: str
    seed: int
    comparisons: tuple[Comparison, ...]
    findings: tuple[Finding, ...]
    checked: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def kinks(self) -> int:
        return sum(comparison.kinks for comparison in self.comparisons)

    @property
    def errors(self) -> dict[str, float]:
        """The error of each gradient; that of dx is under "x"."""
        return {comparison.gradient: comparison.error for comparison in self.comparisons}

    @property
    def cause(self) -> str | None:
        """The first named cause."""
        return next((finding.cause for finding in self.findings if finding.cause), None)

    def __str__(self) -> str:
        return table([self])

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """For Jupyter: the same table."""
        printer.text(str(self))


def table(reports: list[Report]) -> str:
    """The reports as text: for each layer a row for each gradient, then what is wrong, and what was
    not checked."""
    cells = [comparison.cells() for report in reports for comparison in report.comparisons]
    title, *rows = align([("gradient", "shape", "error", "worst at", ""), *cells], "<<><<")
    lines, remaining = [f"    {title}"], iter(rows)
    for report in reports:
        lines.append(report.layer)
        lines += [f"    {next(remaining)}" for _ in report.comparisons]
        for finding in report.findings:
            lines.append(f"    {finding} (seed {report.seed})")
            lines += [f"      {line}" for line in finding.traceback.splitlines()]
        lines += [f"    not checked: {what}" for what in report.unchecked]
    return "\n".join(lines)


def frames(error: Exception) -> str:
    """The end of the error's traceback, without the checker's own frames."""
    stack = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in stack if Path(frame.filename) not in CHECKER]
    return "".join(traceback.format_list(outside[-FRAMES:]))
