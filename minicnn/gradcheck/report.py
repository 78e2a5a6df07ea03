"""What a check of gradients found: the comparisons, and what is wrong."""

from dataclasses import dataclass, replace

from minicnn.checks import Shape
from minicnn.text import align


@dataclass(frozen=True)
class Finding:
    """Something that is wrong. `gradient` names the array it is about: "x" or a parameter for its
    gradient, and "y", "dy" or "saved". `cause` is a guess at the mistake, or None."""

    gradient: str
    message: str
    cause: str | None = None

    def __str__(self) -> str:
        return f"{self.message}. Likely cause: {self.cause or 'none that is known'}"


@dataclass(frozen=True)
class Comparison:
    """One gradient beside central differences.

    error: the largest difference, relative to the largest entry; along one direction, relative to
        the length of the gradient
    index: of the entry that is off most; None if one direction or nothing was compared
    kinks: how many entries lie at a kink or tie, where any slope between left and right will do
    """

    gradient: str
    shape: Shape
    error: float
    index: tuple[int, ...] | None
    kinks: int
    ok: bool

    def excused(self) -> "Comparison":
        """The same for a difference that is known to come from a kink."""
        return replace(self, error=0.0, index=None, kinks=max(1, self.kinks), ok=True)

    def cells(self) -> tuple[str, ...]:
        where = "a direction" if self.index is None else str(list(self.index))
        verdict = "ok" if self.ok else "WRONG"
        if self.kinks:
            verdict += f", kinks or ties: {self.kinks}"
        return self.gradient, " x ".join(map(str, self.shape)), f"{self.error:.0e}", where, verdict


@dataclass(frozen=True)
class Report:
    """What `check_gradients` found. Printed, it is a table, and below it what is wrong."""

    layer: str
    seed: int
    comparisons: tuple[Comparison, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def kinks(self) -> int:
        return sum(comparison.kinks for comparison in self.comparisons)

    @property
    def errors(self) -> dict[str, float]:
        """The error of each gradient, of x under "x"."""
        return {comparison.gradient: comparison.error for comparison in self.comparisons}

    @property
    def cause(self) -> str | None:
        """The first cause that was named."""
        return next((finding.cause for finding in self.findings if finding.cause), None)

    def __str__(self) -> str:
        return table([self])


def table(reports: list[Report]) -> str:
    """The reports as text: under each layer a row for each gradient, and then what is wrong."""
    cells = [comparison.cells() for report in reports for comparison in report.comparisons]
    title, *rows = align([("gradient", "shape", "error", "worst at", ""), *cells], "<<><<")
    lines, remaining = [f"    {title}"], iter(rows)
    for report in reports:
        lines.append(report.layer)
        lines += [f"    {next(remaining)}" for _ in report.comparisons]
        lines += [f"    {finding} (seed {report.seed})" for finding in report.findings]
    return "\n".join(lines)
