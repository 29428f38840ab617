"""induction: for each letter, the number that followed it, or <unk> where it is new.

Learned from examples by a discrete transformer (Friedman, Wettig and Chen 2023,
Learning Transformer Programs) and written out by workbench. Every variable has a value
at each position; what the answers do not depend on is left out. Right in 100.00 % of
held-out answers.
"""

import sys
from typing import Any

Column = list[Any]
WORDS = ("a", "b", "c", "d", "0", "1", "2", "3", "<s>")
CLASSES = ("0", "1", "2", "3", "<unk>")
LENGTH = 10


def nearest(wanted: Column, keys: Column, values: Column) -> Column:
    """Copy the value of the nearest position that has the wanted key, else of the first.

    Of two positions that are as near, the one before; the position itself comes last.
    """
    copied = []
    for i, want in enumerate(wanted):
        seen = enumerate(keys[: i + 1])
        found = [(j == i, abs(j - i), j) for j, key in seen if key == want]
        copied.append(values[min(found)[-1] if found else 0])
    return copied


def attn_0_1(positions: Column, tokens: Column) -> Column:
    """tokens, nearest position where positions is what the table asks for."""
    wanted = {0: 2, 2: 1, 4: 3, 5: 9, 7: 9, 8: 7, 9: 6}
    asked = [wanted.get(value, 5) for value in positions]
    return nearest(asked, positions, tokens)


def attn_1_3(tokens: Column, attn_0_1: Column) -> Column:
    """tokens, nearest position where attn_0_1 is what the table asks for."""
    wanted = {"a": "a", "b": "b", "c": "c", "d": "d"}
    asked = [wanted.get(value) for value in tokens]
    return nearest(asked, attn_0_1, tokens)


# What each value of a variable says for each of CLASSES; the largest sum is the answer.
BASE = (0, 0, 0, 0, 0)
SCORES: dict[str, dict[Any, tuple[int, ...]]] = {
    "attn_1_3": {
        "a": (0, 0, 0, 0, 0),
        "b": (0, 0, 0, 0, 0),
        "c": (0, 0, 0, 0, 0),
        "d": (0, 0, 0, 0, 0),
        "0": (58, -36, -36, -36, -36),
        "1": (-36, 59, -35, -36, -36),
        "2": (-35, -35, 58, -35, -35),
        "3": (-35, -35, -35, 59, -35),
        "<s>": (-41, -41, -41, -41, 62),
    },
}


def run(tokens: list[str]) -> list[str]:
    """Answer at every position of an input that starts with "<s>"."""
    if not 0 < len(tokens) <= LENGTH or not set(tokens) <= set(WORDS):
        raise ValueError(f"Give 1 to {LENGTH} words out of {' '.join(WORDS)}.")
    positions = list(range(len(tokens)))
    attn_0_1_out = attn_0_1(positions, tokens)
    attn_1_3_out = attn_1_3(tokens, attn_0_1_out)
    read: dict[str, Column] = {
        "attn_1_3": attn_1_3_out,
    }
    answers = []
    for i in range(len(tokens)):
        rows = [BASE, *(SCORES[name][column[i]] for name, column in read.items())]
        totals = [sum(scores) for scores in zip(*rows, strict=True)]
        answers.append(CLASSES[totals.index(max(totals))])
    return answers


if __name__ == "__main__":
    sys.stdout.write(" ".join(run(sys.argv[1:])) + "\n")
