"""hist: for each letter, how often it is there.

Learned from examples by a discrete transformer (Friedman, Wettig and Chen 2023,
Learning Transformer Programs) and written out by workbench. Every variable has a value
at each position; what the answers do not depend on is left out. Right in 100.00 % of
held-out answers.
"""

import sys
from typing import Any

Column = list[Any]
WORDS = ("0", "1", "2", "3", "4", "5", "<s>")
CLASSES = ("1", "2", "3", "4", "5", "6", "7")
LENGTH = 8


def added(wanted: Column, keys: Column, values: Column) -> Column:
    """Add up the values of all positions that have the wanted key, up to LENGTH."""
    sums = []
    for want in wanted:
        seen = zip(keys, values, strict=True)
        sums.append(min(LENGTH, sum(value for key, value in seen if key == want)))
    return sums


def num_attn_0_1(tokens: Column, ones: Column) -> Column:
    """Sum of ones where tokens is what the table asks for."""
    asked = tokens
    return added(asked, tokens, ones)


# What each value of a variable says for each of CLASSES; the largest sum is the answer.
BASE = (0, 0, 0, 0, 0, 0, 0)
SCORES: dict[str, dict[Any, tuple[int, ...]]] = {
    "num_attn_0_1": {
        0: (0, 0, 0, 0, 0, 0, 0),
        1: (74, -32, -32, -32, -32, -32, -32),
        2: (-31, 75, -31, -31, -31, -31, -31),
        3: (-32, -32, 67, -32, -32, -32, -33),
        4: (-24, -24, -24, 66, -24, -24, -24),
        5: (-17, -17, -17, -17, 59, -17, -17),
        6: (-10, -10, -10, -10, -10, 45, -10),
        7: (0, 0, 0, 0, 0, 0, 0),
        8: (0, 0, 0, 0, 0, 0, 0),
    },
}


def run(tokens: list[str]) -> list[str]:
    """Answer at every position of an input that starts with "<s>"."""
    if not 0 < len(tokens) <= LENGTH or not set(tokens) <= set(WORDS):
        raise ValueError(f"Give 1 to {LENGTH} words out of {' '.join(WORDS)}.")
    ones = [1] * len(tokens)
    num_attn_0_1_out = num_attn_0_1(tokens, ones)
    read: dict[str, Column] = {
        "num_attn_0_1": num_attn_0_1_out,
    }
    answers = []
    for i in range(len(tokens)):
        rows = [BASE, *(SCORES[name][column[i]] for name, column in read.items())]
        totals = [sum(scores) for scores in zip(*rows, strict=True)]
        answers.append(CLASSES[totals.index(max(totals))])
    return answers


if __name__ == "__main__":
    sys.stdout.write(" ".join(run(sys.argv[1:])) + "\n")
