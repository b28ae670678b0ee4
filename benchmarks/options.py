"""Command-line options shared by the benchmarks."""

import argparse
import os
from collections.abc import Collection

from benchmarks.corpus import Kind

_REPO = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def parser_of(name: str, what: str, counts: dict[Kind, int]) -> argparse.ArgumentParser:
    """A parser with options for the folder, the page, and the number of images of each kind."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=what)
    parser.add_argument("--folder", default=os.path.join(_REPO, "data", "benchmarks"), help="for images and all else")
    for kind, count in counts.items():
        parser.add_argument(f"--{kind.name}", type=int, default=count, help=f"{kind.title} ({count})")
    parser.add_argument("--write", metavar="PAGE", help="the Markdown page whose section is replaced")
    return parser


def add_rounds(parser: argparse.ArgumentParser) -> None:
    """Add the option for the number of rounds."""
    parser.add_argument("--rounds", type=int, default=5, help="how often each runs (5)")


def add_selection(parser: argparse.ArgumentParser, names: Collection[str]) -> None:
    """Add the options that select contestants, or only render the page."""
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--render", action="store_true", help="do not measure: take what the last run measured")
