"""Everything about the pipeline on a GPU, in one call: ``python -m benchmarks.gpu --help`` lists the options."""

import argparse
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field

from benchmarks.gpu.part import PARTS, Job, write_json
from benchmarks.gpu.report import machine_lines, part_lines
from benchmarks.gpu.runner import Part, run_part
from benchmarks.gpu.wanted import targets
from benchmarks.measure import REPO
from benchmarks.report import targets_table
from benchmarks.results import today, typed

# The time limit of each part in seconds, well above what a machine with one H100 needs.
_LIMITS = {"machine": 60.0, "tests": 150.0, "step": 165.0, "pipeline": 200.0, "digits": 100.0, "fashion": 120.0}
_LEAST_SECONDS = 15
# A trial measures nothing, and may run on a busy machine.
_TRIAL = 4


@dataclass
class _Benchmark:
    """The finished parts, saved after each of them."""

    options: argparse.Namespace
    work: str
    began: float = field(default_factory=time.monotonic)
    parts: dict[str, Part] = field(default_factory=dict)

    def run(self) -> None:
        for name in ("machine", *self.options.only):
            self.parts[name] = self._part(name)
            print(f"{name}: {self.parts[name].status}, {self.parts[name].seconds:.0f} s", file=sys.stderr, flush=True)
            self._save()

    def _part(self, name: str) -> Part:
        limit = min(self._limits[name], self.began + self._patience * self.options.minutes * 60 - time.monotonic())
        if limit <= 0 or limit < min(_LEAST_SECONDS, self._limits[name]):
            return Part("left out")
        work = os.path.join(self.work, name)
        job = Job(f"{work}.json", work, self.options.tiny, self.options.epochs, self.options.fashion)
        try:
            return run_part(name, job, limit)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    @property
    def _limits(self) -> dict[str, float]:
        return {name: limit * self._patience for name, limit in _LIMITS.items()} | self.options.limit

    @property
    def _patience(self) -> float:
        """The factor by which time limits exceed those for a machine with a GPU."""
        return _TRIAL if self.options.tiny else 1.0

    def _save(self) -> None:
        found = {
            "command": typed("gpu"),
            "date": today(),
            "tiny": self.options.tiny,
            "machine": self.parts["machine"].figures.get("machine", {}),
            "parts": {name: asdict(part) for name, part in self.parts.items()},
            "targets": [asdict(target) for target in targets(self.parts)],
        }
        write_json(self.options.out, found)


def main() -> int:
    """Measure and print the tables; the exit status says whether all parts succeeded."""
    options = _parse()
    os.makedirs(os.path.dirname(os.path.abspath(options.out)), exist_ok=True)
    # A short path, because it will contain sockets.
    work = tempfile.mkdtemp(prefix="gpu-")
    try:
        benchmark = _Benchmark(options, work)
        benchmark.run()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    parts = benchmark.parts
    print("\n".join(machine_lines(parts["machine"])))
    for name in options.only:
        print("\n" + "\n".join(part_lines(name, parts[name])))
    print("\n" + targets_table(targets(parts)))
    return 0 if all(part.status == "ran" for part in parts.values()) else 1


def _limit(text: str) -> tuple[str, float]:
    name, _, seconds = text.partition("=")
    if name not in _LIMITS:
        raise argparse.ArgumentTypeError(f"{text!r}: expected PART=SECONDS, the part one of {', '.join(_LIMITS)}")
    return name, float(seconds)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="The pipeline on a GPU.")
    default = os.path.join(REPO, "data", "benchmarks", "gpu.json")
    parser.add_argument("--out", default=default, help="the JSON file, written after each part (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--tiny", action="store_true", help="a trial on the CPU, with very small sizes")
    parser.add_argument(
        "--minutes", type=float, default=8, help="in all; a part that no longer fits is left out (%(default)g)"
    )
    parser.add_argument(
        "--limit", type=_limit, action="append", default=[], metavar="PART=SECONDS", help="kill a part after that long"
    )
    parser.add_argument("--epochs", type=int, help="of the pipeline's training on small images (3; 16 for a whole one)")
    parser.add_argument("--fashion", default="", metavar="FOLDER", help="the files of Fashion-MNIST")
    options = parser.parse_args()
    options.fashion = options.fashion and os.path.abspath(options.fashion)
    options.limit = dict(options.limit)
    # The most important first, independent of the order on the command line.
    options.only = [name for name in PARTS if name in options.only]
    return options


if __name__ == "__main__":
    sys.exit(main())
