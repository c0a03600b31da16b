"""Alter files at random, read them, and say what went wrong.

    python -m analysis.stress.fuzz --minutes 5 --out /tmp/found

Every altered file must be read, or refused with a SiftGraphError that names it; within 20 seconds of the processor
and 512 MiB, with nothing run and nothing written outside its directory. What is not is kept in ``--out``, with the
seed that made it. Where atheris is installed, it chooses by coverage how files are altered (``--random``: not so), a
part of the time for each kind of file.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import random
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from analysis.stress.targets import TARGETS
from analysis.stress.watch import Outcome, watched

__all__ = ["main", "one_round", "read_altered"]


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
    chance = random.Random(f"{name} {seed}")
    altered = chance.choice(TARGETS[name].alter)(whole.read_bytes(), chance)
    return altered, read_altered(name, altered, whole, folder)


def read_altered(name: str, altered: bytes, whole: Path, folder: Path) -> Outcome:
    """Read other bytes in the place of a file, and put everything back; as :func:`one_round`."""
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    whole.write_bytes(altered)
    try:
        return watched(TARGETS[name].read, whole, folder)
    finally:
        for path in folder.rglob("*"):
            if path.is_file() and path not in kept:
                path.unlink()
        for path, content in kept.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)


def guided(names: Sequence[str], minutes: float, out: Path | None) -> int:
    """Give each kind of file its part of the time with atheris, in a process of its own; 1 if anything was found."""
    bad = 0
    for name in names:
        words = [sys.executable, "-m", "analysis.stress.guided", name, "--seconds", str(int(60 * minutes / len(names)))]
        done = subprocess.run([*words, *(["--out", str(out)] if out is not None else [])], check=False)
        print(f"{name:14} {'nothing found' if done.returncode == 0 else 'see above'}")
        bad |= done.returncode != 0
    return int(bad)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run for so many minutes; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, help="stop after so many altered files of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others count on from it")
    parser.add_argument("--only", choices=TARGETS, help="one kind of file")
    parser.add_argument("--random", action="store_true", help="do without atheris")
    parser.add_argument("--out", type=Path, help="keep what was found here")
    asked = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") and not asked.random and asked.rounds is None:
        return guided([asked.only] if asked.only else list(TARGETS), asked.minutes, asked.out)
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            return search(asked)
    finally:
        logging.disable(before)


def search(asked: argparse.Namespace) -> int:
    """Alter, read and judge until the time is over."""
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
