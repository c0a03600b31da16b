"""Timing and the table: one line a goal, with the ratio that was measured and whether it is reached."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def median_seconds(call: Callable[[], object], repeats: int = 5, *, warm: bool = True) -> float:
    """Median wall time of a call, after one that is not counted."""
    if warm:
        call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


@dataclass
class Table:
    """Lines gathered so far; printed as they come, and once more as Markdown at the end."""

    markdown: bool
    rows: list[tuple[str, ...]] = field(default_factory=list)
    header = ("goal", "what", "measured", "against", "target", "reached")

    def add(
        self, goal: str, what: str, measured: str, against: str = "", target: str = "", ok: bool | None = None
    ) -> None:
        """Add a line; `ok` says whether the target is reached, None that there is none."""
        row = (goal, what, measured, against, target, "" if ok is None else "yes" if ok else "NO")
        self.rows.append(row)
        if not self.markdown:
            print(
                "  ".join(f"{cell:<{width}}" for cell, width in zip(row, (5, 58, 34, 30, 26, 4), strict=True)).rstrip()
            )
            sys.stdout.flush()

    def ratio(self, goal: str, what: str, ours: float, theirs: float, name: str, target: float | None = None) -> None:
        """Add a line for a speed-up."""
        factor = theirs / ours
        wanted, reached = ("", None) if target is None else (f">= x{target:g}", factor >= target)
        self.add(goal, what, f"{milliseconds(ours)}: x{factor:.1f}", f"{name}: {milliseconds(theirs)}", wanted, reached)

    def close(self, command: str) -> None:
        """Print the Markdown table if that was asked for."""
        if self.markdown:
            print(f"Machine: {machine()}.\n\nCommand: `{command}`, medians of at least 5, one thread.\n")
            print("| " + " | ".join(self.header) + " |\n|" + "---|" * len(self.header))
            for row in self.rows:
                print("| " + " | ".join(row) + " |")


def milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def peak_megabytes() -> float:
    """Peak resident memory of this process; not getrusage, whose figure a child inherits from its parent."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmHWM in /proc/self/status; the memory section needs Linux")


def machine() -> str:
    """Processor and versions, as one line."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        vector = "AVX-512" if any("avx512_vpopcntdq" in line for line in lines) else "no AVX-512 VPOPCNTDQ"
        model = f"{names[0]} ({len(names)} CPUs, {vector})" if names else model
    versions = []
    for name in ("numpy", "scipy", "numba", "torch"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    return f"{model}, Python {platform.python_version()}, {', '.join(versions)}"
