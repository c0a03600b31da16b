"""Alter files at random, read them, and say what went wrong.

    python -m analysis.stress.fuzz --minutes 5 --out /tmp/found

Every altered file must be read, or refused with a SiftGraphError that names it; within 20 seconds and 512 MiB, with
nothing run and nothing written outside its directory. What is not is kept in ``--out``, with the seed that made it.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from analysis.stress.targets import TARGETS
from analysis.stress.watch import Outcome, watched

__all__ = ["main", "one_round"]


def one_round(name: str, seed: int, whole: Path, folder: Path) -> tuple[bytes, Outcome]:
    """Alter a file as a seed says, read it, and put the whole one back.

    Parameters
    ----------
    name : str
        Of a target.
    seed : int
    whole : Path
        The file; it is whole again afterwards, and so is what lies beside it.
    folder : Path
        Where everything is.

    Returns
    -------
    bytes, Outcome
        What was read, and what became of it.
    """
    target, chance = TARGETS[name], random.Random(f"{name} {seed}")
    data = whole.read_bytes()
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    altered = chance.choice(target.alter)(data, chance)
    whole.write_bytes(altered)
    try:
        outcome = watched(target.read, whole, folder)
    finally:
        for path in folder.rglob("*"):
            if path.is_file() and path not in kept:
                path.unlink()
        for path, content in kept.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)
    return altered, outcome


def main(arguments: Sequence[str] | None = None) -> int:
    """Run for so many minutes; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, help="stop after so many altered files of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others count on from it")
    parser.add_argument("--only", choices=TARGETS, help="one kind of file")
    parser.add_argument("--out", type=Path, help="keep what was found here")
    asked = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    counts: Counter[tuple[str, str]] = Counter()
    seen: set[tuple[str, str]] = set()
    with tempfile.TemporaryDirectory() as root:
        wholes = {}
        for name in [asked.only] if asked.only else TARGETS:
            folder = Path(root) / name.replace(" ", "_")
            folder.mkdir()
            wholes[name] = TARGETS[name].make(folder)
            TARGETS[name].read(wholes[name])  # whatever is imported or compiled late, is so now
        ends = time.monotonic() + 60 * asked.minutes
        seed = asked.seed
        while time.monotonic() < ends and (asked.rounds is None or seed - asked.seed < asked.rounds):
            for name, whole in wholes.items():
                folder = Path(root) / name.replace(" ", "_")
                altered, outcome = one_round(name, seed, whole, folder)
                counts[name, outcome.word] += 1
                kind = outcome.detail.split(":")[0]
                if outcome.is_bad and (name, kind) not in seen:
                    seen.add((name, kind))
                    print(f"{name}, seed {seed}: {outcome.word}: {outcome.detail}", file=sys.stderr)
                    if asked.out is not None:
                        asked.out.mkdir(parents=True, exist_ok=True)
                        (asked.out / f"{outcome.word}-{seed}-{whole.name}").write_bytes(altered)
            seed += 1
    for name in wholes:
        told = ", ".join(f"{n} {word}" for (kind, word), n in sorted(counts.items()) if kind == name)
        print(f"{name:14} {told}")
    return int(bool(seen))


if __name__ == "__main__":
    sys.exit(main())
