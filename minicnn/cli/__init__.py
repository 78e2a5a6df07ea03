"""The command line: its arguments, and what its commands print. Only this room knows argparse."""

from minicnn.cli.commands import main

__all__ = ["main"]
