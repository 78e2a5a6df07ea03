"""The command line: its arguments, and what its commands print. Only this package uses argparse."""

from minicnn.cli.commands import main

__all__ = ["main"]
