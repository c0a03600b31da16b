"""Let atheris choose how files are altered, by what is reached in the code that reads them; for one kind of file.

    python -m analysis.stress.guided snapshot --seconds 60 --out /tmp/found

Ends with an error, and the file that made it in ``--out``, at the first finding.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
COMPILED = [  # numba cannot compile what atheris has instrumented
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "sift_graph").rglob("*.py")
    if "numba" in path.read_text()
]

with atheris.instrument_imports(include=["sift_graph"], exclude=COMPILED):
    from analysis.stress.fuzz import read_altered
    from analysis.stress.targets import TARGETS


def main() -> None:
    """Run until the time is over or something is found; atheris ends the process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path())
    asked = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    target = TARGETS[asked.kind]
    root = Path(tempfile.mkdtemp())
    folder, corpus = root / "folder", root / "corpus"
    for one in (folder, corpus, asked.out):
        one.mkdir(parents=True, exist_ok=True)
    whole = target.make(folder)
    target.read(whole)
    (corpus / "whole").write_bytes(whole.read_bytes())

    def read(data: bytes) -> None:
        outcome = read_altered(asked.kind, data, whole, folder)
        if outcome.is_bad:
            raise AssertionError(outcome)

    def alter(data: bytes, size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        if chance.randrange(2):
            return bytes(atheris.Mutate(data, size))
        try:
            return chance.choice(target.alter)(data, chance)[:size]
        except Exception:  # what is not whole any more cannot be altered with understanding
            return bytes(atheris.Mutate(data, size))

    limits = [f"-max_total_time={asked.seconds}", "-max_len=65536", "-timeout=0"]
    words = [sys.argv[0], *limits, f"-artifact_prefix={asked.out}/", "-verbosity=0", str(corpus)]
    atheris.Setup(words, read, custom_mutator=alter)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
