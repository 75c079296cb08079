"""What a pickle would cost to unpack: a few bytes can say "ten times that, ten times that, ...".

torch's `weights_only` unpickler runs no code, but it builds whatever tuples, lists and dictionaries a file
asks for, the same one in many places. That takes no room at first. Whoever goes through such a value, prints
it or copies it, goes through it as often as it is named.
"""

from __future__ import annotations

import pickletools
from typing import Any

MOST = 1_000_000
"""Values in a checkpoint; real ones have some thousands, with a few for each photograph."""
_DEEPEST = 50
_FILLING = frozenset(("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"))


def extent_fault(content: Any) -> str:
    """Of a tree that has been loaded: nested without end, or huge by repetition; empty if it is neither."""
    waiting, count = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, dict):
            inner: list[Any] = [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            inner = list(value)
        else:
            continue
        count += len(inner)
        if depth > _DEEPEST or count > MOST:
            return "values in values without end"
        waiting += [(one, depth + 1) for one in inner]
    return ""


def hashing_fault(pickle: bytes) -> str:
    """Of a pickle that has not been loaded: keys that are tuples of tuples, each hashed as often as named.

    Follows the pickle's stack, with numbers of values in the place of values. What is none is not judged.
    """
    try:
        return "values in values without end" if _hashed(pickle) > MOST else ""
    except (ValueError, KeyError, IndexError, TypeError, OverflowError):  # the unpickler will refuse it
        return ""


def _hashed(pickle: bytes) -> int:
    """How many values are gone through to put all keys and members into their dictionaries and sets."""
    mark: list[int] = []
    stack: list[list[int]] = []
    memo: dict[Any, list[int]] = {}
    hashed = 0
    for opcode, argument, _ in pickletools.genops(pickle):
        name = opcode.name
        if name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name.endswith("PUT"):
            memo[argument] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[argument])
        elif name == "MARK":
            stack.append(mark)
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "STOP":
            break
        else:
            taken: list[list[int]] = []
            below = len(opcode.stack_before)
            if pickletools.markobject in opcode.stack_before:
                while stack[-1] is not mark:
                    taken.append(stack.pop())
                stack.pop()
                below = opcode.stack_before.index(pickletools.markobject)
            container = None
            for _ in range(below):
                container = stack.pop()
                taken.append(container)
            total = sum(one[0] for one in taken)
            if name in _FILLING and container is not None:
                hashed += total - container[0]
                container[0] = total
                stack.append(container)
            else:
                stack += [[1 + total] for _ in opcode.stack_after]
            if hashed > MOST:
                break
    return hashed
