"""Measure everything and put the tables into BENCHMARKS.md, between its markers.

    python -m bench [--parts algorithms serving scaling] [--sizes 1e6 5e6 20e6]

A part is a module of this folder whose own command line prints Markdown.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

PAGE = Path(__file__).parents[1] / "BENCHMARKS.md"


def put(page: str, name: str, text: str) -> str:
    """The page with `text` between <!-- bench NAME --> and <!-- end NAME -->, or ValueError."""
    begin, end = f"<!-- bench {name} -->\n", f"<!-- end {name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{PAGE}: no lines '{begin.strip()}' and '{end}' to write between. Put them back.")
    return f"{before}{begin}{text.strip()}\n{end}{after}"


def main() -> int:
    """Measure the parts, one after the other."""
    parser = argparse.ArgumentParser(description="Measure, and write the tables into BENCHMARKS.md.")
    parts = ["algorithms", "serving", "scaling"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--sizes", nargs="+", default=["1e6", "5e6", "20e6"], help="ratings, for the scaling")
    arguments = parser.parse_args()
    for name in arguments.parts:
        began = time.perf_counter()
        line = [sys.executable, "-m", f"bench.{name}"]
        if name == "scaling":
            line += ["--sizes", *arguments.sizes]
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
        PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), name, done.stdout), encoding="utf-8")
        print(done.stdout)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
