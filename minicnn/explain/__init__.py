"""Where each number of a gradient comes from, as a page; and what one step of training does."""

from minicnn.explain.page import Explanation, explain
from minicnn.explain.report import Trace
from minicnn.explain.trace import trace

__all__ = ["Explanation", "Trace", "explain", "trace"]
