"""Look at a pickle without loading it: how long a key of it would take to hash.

Python hashes a tuple by hashing what is in it, each time anew. A tuple of two references to a tuple of two references
and so on, forty deep, is 200 bytes of pickle and takes hours as a key of a dictionary; the restricted unpickler that
reads checkpoints builds it. A pickle is walked here as a stack of costs, and nothing of it is made.
"""

from __future__ import annotations

import pickletools
from typing import BinaryIO

from sift_graph.errors import MaskError

__all__ = ["MAX_COST", "check_tuples"]

MAX_COST = 1 << 20  # entries of a tuple, those of tuples in it counted as often as they are referred to

_POPS = {"NEWOBJ": 2, "REDUCE": 2, "APPEND": 2, "SETITEM": 3, "BUILD": 2, "BINPERSID": 1, "STOP": 1}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = ("BINPUT", "LONG_BINPUT", "PUT")
_GETS = ("BINGET", "LONG_BINGET", "GET")


def check_tuples(pickled: bytes | BinaryIO) -> None:
    """Refuse a pickle that holds a tuple of tuples which cannot be hashed in reasonable time.

    Parameters
    ----------
    pickled : bytes or binary file
        From the beginning of a pickle; what is no pickle passes, and is refused by whoever loads it.

    Raises
    ------
    MaskError
        If a tuple is of more than ``MAX_COST`` entries.
    """
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[object, int] = {}
    try:
        for code, argument, _ in pickletools.genops(pickled):
            name = code.name
            if name in _TUPLES or name == "TUPLE":
                first = marks.pop() if name == "TUPLE" else len(stack) - _TUPLES[name]
                cost = 1 + sum(stack[first:])
                if cost > MAX_COST:
                    break
                stack[first:] = [cost]
            elif name == "MARK":
                marks.append(len(stack))
            elif name in ("APPENDS", "SETITEMS"):
                del stack[marks.pop() :]
            elif name in _PUTS:
                memo[argument] = stack[-1]
            elif name in _GETS:
                stack.append(memo[argument])
            elif name in _POPS:
                del stack[max(len(stack) - _POPS[name], 0) :]
                stack.append(1)
            elif code.stack_after and not code.stack_before:
                stack.append(1)
        else:
            return
    except (ValueError, IndexError, KeyError, EOFError):
        return
    raise MaskError(f"it holds a tuple of tuples with more than {MAX_COST} entries")
