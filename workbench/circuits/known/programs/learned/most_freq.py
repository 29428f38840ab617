"""most-freq: the unlike letters, the most frequent first, ties in order of first sight;
then <s>.

Learned from examples by a discrete transformer (Friedman, Wettig and Chen 2023,
Learning Transformer Programs) and written out by workbench. Every variable has a value
at each position; what the answers do not depend on is left out. Right in 80.74 % of
held-out answers.
"""

import sys
from typing import Any

Column = list[Any]
Table = dict[Any, dict[Any, int]]
WORDS = ("0", "1", "2", "3", "4", "5", "<s>")
CLASSES = ("0", "1", "2", "3", "4", "5", "<s>")
LENGTH = 8


def nearest(wanted: Column, keys: Column, values: Column) -> Column:
    """Copy the value of the nearest position that has the wanted key, else of the first.

    Of two positions that are as near, the one before; the position itself comes last.
    """
    copied = []
    for i, want in enumerate(wanted):
        seen = enumerate(keys)
        found = [(j == i, abs(j - i), j) for j, key in seen if key == want]
        copied.append(values[min(found)[-1] if found else 0])
    return copied


def added(wanted: Column, keys: Column, values: Column) -> Column:
    """Add up the values of all positions that have the wanted key, up to LENGTH."""
    sums = []
    for want in wanted:
        seen = zip(keys, values, strict=True)
        sums.append(min(LENGTH, sum(value for key, value in seen if key == want)))
    return sums


def paired(table: Table, rest: int, first: Column, second: Column) -> Column:
    """Look up pairs of values; those that the table leaves out give ``rest``."""
    pairs = zip(first, second, strict=True)
    return [table.get(a, {}).get(b, rest) for a, b in pairs]


def attn_0_0(positions: Column, tokens: Column) -> Column:
    """tokens, nearest position where positions is what the table asks for."""
    wanted = {1: 0, 2: 1, 3: 2, 5: 6, 6: 7}
    asked = [wanted.get(value, 4) for value in positions]
    return nearest(asked, positions, tokens)


def attn_0_1(positions: Column, tokens: Column) -> Column:
    """tokens, nearest position where positions is what the table asks for."""
    wanted = {0: 5, 1: 3, 2: 1, 3: 2, 4: 6, 5: 7, 6: 7, 7: 6}
    asked = [wanted[value] for value in positions]
    return nearest(asked, positions, tokens)


def attn_0_2(positions: Column, tokens: Column) -> Column:
    """tokens, nearest position where tokens is what the table asks for."""
    wanted = {2: "2", 3: "5", 4: "5", 5: "3", 6: "5"}
    asked = [wanted.get(value, "1") for value in positions]
    return nearest(asked, tokens, tokens)


def attn_0_3(positions: Column, tokens: Column) -> Column:
    """tokens, nearest position where positions is what the table asks for."""
    wanted = {0: 4, 1: 2, 2: 1, 3: 4, 4: 3}
    asked = [wanted.get(value, 6) for value in positions]
    return nearest(asked, positions, tokens)


def num_attn_0_0(positions: Column, tokens: Column, ones: Column) -> Column:
    """Sum of ones where tokens is what the table asks for."""
    wanted = {0: "0", 1: "4", 3: "<s>", 7: None}
    asked = [wanted.get(value, "1") for value in positions]
    return added(asked, tokens, ones)


def num_attn_0_1(positions: Column, tokens: Column, ones: Column) -> Column:
    """Sum of ones where tokens is what the table asks for."""
    wanted = {0: "2", 1: "<s>", 2: "<s>", 6: None, 7: None}
    asked = [wanted.get(value, "1") for value in positions]
    return added(asked, tokens, ones)


def num_attn_0_2(positions: Column, tokens: Column, ones: Column) -> Column:
    """Sum of ones where tokens is what the table asks for."""
    wanted = {1: "<s>", 2: "<s>"}
    asked = [wanted.get(value, "4") for value in positions]
    return added(asked, tokens, ones)


def num_attn_0_3(positions: Column, tokens: Column, ones: Column) -> Column:
    """Sum of ones where tokens is what the table asks for."""
    wanted = {0: "3", 1: "3", 2: "<s>", 6: None, 7: None}
    asked = [wanted.get(value, "5") for value in positions]
    return added(asked, tokens, ones)


def mlp_0_0(positions: Column) -> Column:
    """A table of positions."""
    table = {4: 4}
    return [table.get(value, 0) for value in positions]


def mlp_0_1(positions: Column, attn_0_0: Column) -> Column:
    """A table of positions and attn_0_0."""
    table: Table = {
        0: {"0": 5},
        1: {"0": 1, "1": 1, "2": 1, "3": 1, "4": 1, "5": 1, "<s>": 1},
        2: {"1": 1, "2": 1, "3": 1, "4": 1, "5": 1, "<s>": 1},
        7: {"0": 5, "1": 5, "2": 5, "4": 5, "5": 5, "<s>": 5},
    }
    return paired(table, 6, positions, attn_0_0)


def num_mlp_0_0(num_attn_0_2: Column, num_attn_0_3: Column) -> Column:
    """A table of num_attn_0_3 and num_attn_0_2."""
    table: Table = {
        0: {0: 2, 1: 2, 2: 2, 3: 2, 4: 5, 5: 5, 6: 2, 7: 2, 8: 2},
        1: {0: 0, 1: 7, 2: 0, 3: 0, 4: 5, 5: 5, 6: 7, 7: 7, 8: 7},
        2: {0: 3, 1: 3, 2: 3, 3: 3, 4: 3, 5: 5, 6: 3, 7: 3, 8: 3},
        6: {3: 3},
        7: {0: 0, 1: 7, 2: 3, 3: 3, 4: 5, 5: 5, 6: 2, 7: 7, 8: 7},
        8: {0: 0, 1: 7, 2: 3, 3: 3, 4: 5, 5: 5, 6: 2, 7: 7, 8: 7},
    }
    return paired(table, 4, num_attn_0_3, num_attn_0_2)


def num_mlp_0_1(num_attn_0_0: Column, num_attn_0_2: Column) -> Column:
    """A table of num_attn_0_0 and num_attn_0_2."""
    table: Table = {
        0: {1: 7, 2: 6, 7: 6, 8: 6},
        1: {1: 7, 2: 4, 7: 7, 8: 7},
        2: {1: 0, 2: 6},
        4: {1: 2, 2: 6},
        5: {1: 2, 2: 4, 6: 2, 7: 2, 8: 2},
        6: {1: 2, 2: 6, 7: 2, 8: 2},
        7: {1: 7, 2: 6, 7: 7, 8: 7},
        8: {1: 7, 2: 6, 7: 7, 8: 7},
    }
    return paired(table, 1, num_attn_0_0, num_attn_0_2)


def attn_1_0(num_mlp_0_0: Column, positions: Column, attn_0_0: Column) -> Column:
    """attn_0_0, nearest position where positions is what the table asks for."""
    wanted = {0: 1, 2: 1, 3: 2, 4: 4, 5: 5, 7: 0}
    asked = [wanted[value] for value in num_mlp_0_0]
    return nearest(asked, positions, attn_0_0)


def attn_1_1(positions: Column, attn_0_1: Column) -> Column:
    """attn_0_1, nearest position where positions is what the table asks for."""
    wanted = {0: 4, 1: 2, 2: 7, 3: 2, 7: 4}
    asked = [wanted.get(value, 6) for value in positions]
    return nearest(asked, positions, attn_0_1)


def attn_1_2(positions: Column, mlp_0_0: Column, attn_0_1: Column) -> Column:
    """attn_0_1, nearest position where mlp_0_0 is what the table asks for."""
    wanted = {1: 0, 2: 0, 4: None, 5: None, 6: None}
    asked = [wanted.get(value, 4) for value in positions]
    return nearest(asked, mlp_0_0, attn_0_1)


def attn_1_3(positions: Column, tokens: Column) -> Column:
    """tokens, nearest position where positions is what the table asks for."""
    wanted = {0: 6, 1: 1, 2: 0, 3: 0, 4: 5}
    asked = [wanted.get(value, 7) for value in positions]
    return nearest(asked, positions, tokens)


def num_attn_1_0(positions: Column, tokens: Column, ones: Column) -> Column:
    """Sum of ones where tokens is what the table asks for."""
    wanted = {0: "<s>", 1: "4", 2: "<s>", 7: None}
    asked = [wanted.get(value, "3") for value in positions]
    return added(asked, tokens, ones)


def num_attn_1_1(mlp_0_1: Column, tokens: Column, ones: Column) -> Column:
    """Sum of ones where tokens is what the table asks for."""
    wanted = {1: "0", 5: None, 6: None}
    asked = [wanted[value] for value in mlp_0_1]
    return added(asked, tokens, ones)


def num_attn_1_2(positions: Column, tokens: Column, ones: Column) -> Column:
    """Sum of ones where tokens is what the table asks for."""
    wanted = {0: "<s>", 1: "5", 2: "<s>", 7: None}
    asked = [wanted.get(value, "3") for value in positions]
    return added(asked, tokens, ones)


def num_attn_1_3(attn_0_0: Column, tokens: Column, ones: Column) -> Column:
    """Sum of ones where tokens is what the table asks for."""
    wanted = {"1": "<s>"}
    asked = [wanted.get(value, "1") for value in attn_0_0]
    return added(asked, tokens, ones)


def mlp_1_0(attn_0_0: Column, attn_1_1: Column) -> Column:
    """A table of attn_1_1 and attn_0_0."""
    table: Table = {
        "0": {"3": 0},
        "1": {"3": 2},
        "2": {"2": 6, "3": 0, "<s>": 6},
        "3": {"0": 2, "1": 2, "2": 2, "3": 6, "4": 3, "5": 2, "<s>": 2},
        "4": {"0": 2, "1": 2, "2": 2, "3": 0, "4": 2, "<s>": 2},
        "5": {"0": 2, "5": 2},
        "<s>": {"0": 6, "1": 6, "2": 6, "3": 0, "4": 2, "<s>": 6},
    }
    return paired(table, 7, attn_1_1, attn_0_0)


def mlp_1_1(positions: Column) -> Column:
    """A table of positions."""
    table = {1: 0, 5: 1, 6: 1, 7: 1}
    return [table.get(value, 7) for value in positions]


def num_mlp_1_1(num_attn_1_0: Column, num_attn_1_2: Column) -> Column:
    """A table of num_attn_1_2 and num_attn_1_0."""
    table: Table = {
        0: {2: 1, 3: 1},
        2: {0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1, 8: 1},
        3: {0: 1, 1: 1, 2: 1, 3: 1, 6: 1, 7: 1, 8: 1},
        5: {2: 1},
        6: {2: 1, 3: 1},
        7: {2: 1, 3: 1},
        8: {2: 1, 3: 1},
    }
    return paired(table, 3, num_attn_1_2, num_attn_1_0)


def attn_2_0(attn_0_0: Column, tokens: Column, num_mlp_0_1: Column) -> Column:
    """num_mlp_0_1, nearest position where tokens is what the table asks for."""
    wanted = {"<s>": "1"}
    asked = [wanted.get(value, "4") for value in attn_0_0]
    return nearest(asked, tokens, num_mlp_0_1)


def attn_2_1(positions: Column, mlp_0_0: Column, attn_1_3: Column) -> Column:
    """attn_1_3, nearest position where mlp_0_0 is what the table asks for."""
    wanted = {1: 0, 3: 4}
    asked = [wanted.get(value) for value in positions]
    return nearest(asked, mlp_0_0, attn_1_3)


def attn_2_2(attn_0_0: Column, mlp_1_1: Column, attn_1_0: Column) -> Column:
    """attn_1_0, nearest position where mlp_1_1 is what the table asks for."""
    wanted = {"1": None, "2": 1, "3": None}
    asked = [wanted.get(value, 7) for value in attn_0_0]
    return nearest(asked, mlp_1_1, attn_1_0)


def attn_2_3(attn_1_2: Column, mlp_0_0: Column, num_mlp_0_0: Column) -> Column:
    """num_mlp_0_0, nearest position where mlp_0_0 is what the table asks for."""
    wanted = {"1": None}
    asked = [wanted.get(value, 4) for value in attn_1_2]
    return nearest(asked, mlp_0_0, num_mlp_0_0)


def num_attn_2_0(attn_0_0: Column, tokens: Column, ones: Column) -> Column:
    """Sum of ones where tokens is what the table asks for."""
    wanted = {"2": None}
    asked = [wanted.get(value, "2") for value in attn_0_0]
    return added(asked, tokens, ones)


def num_attn_2_1(mlp_0_0: Column, num_mlp_1_1: Column, ones: Column) -> Column:
    """Sum of ones where num_mlp_1_1 is what the table asks for."""
    wanted = {0: 1, 4: None}
    asked = [wanted[value] for value in mlp_0_0]
    return added(asked, num_mlp_1_1, ones)


def num_attn_2_2(mlp_1_1: Column, tokens: Column, ones: Column) -> Column:
    """Sum of ones where tokens is what the table asks for."""
    wanted = {0: "<s>", 1: "0", 7: "0"}
    asked = [wanted[value] for value in mlp_1_1]
    return added(asked, tokens, ones)


def num_attn_2_3(positions: Column, tokens: Column, ones: Column) -> Column:
    """Sum of ones where tokens is what the table asks for."""
    wanted = {1: None}
    asked = [wanted.get(value, "2") for value in positions]
    return added(asked, tokens, ones)


def mlp_2_1(positions: Column, attn_2_2: Column) -> Column:
    """A table of attn_2_2 and positions."""
    table: Table = {
        "0": {1: 1, 3: 6, 4: 6},
        "1": {1: 1, 2: 4, 3: 6, 4: 6, 7: 4},
        "2": {1: 0, 3: 6, 4: 6},
        "3": {1: 4, 3: 6, 4: 6},
        "4": {1: 1, 3: 6, 4: 6},
        "5": {3: 6},
        "<s>": {3: 6, 4: 6},
    }
    return paired(table, 2, attn_2_2, positions)


def num_mlp_2_0(num_attn_2_1: Column, num_attn_2_2: Column) -> Column:
    """A table of num_attn_2_2 and num_attn_2_1."""
    table: Table = {
        1: {0: 2, 1: 2, 2: 2, 3: 2, 7: 2},
        2: {1: 2, 2: 2, 3: 2, 7: 2},
        3: {0: 2, 1: 2, 2: 2, 3: 2, 6: 2, 7: 2, 8: 2},
        4: {1: 2, 2: 2, 3: 2, 7: 2},
        7: {0: 2, 1: 2, 2: 2, 3: 2, 7: 2, 8: 2},
        8: {1: 2, 2: 2, 3: 2, 7: 2, 8: 2},
    }
    return paired(table, 5, num_attn_2_2, num_attn_2_1)


def num_mlp_2_1(num_attn_1_2: Column, num_attn_2_3: Column) -> Column:
    """A table of num_attn_2_3 and num_attn_1_2."""
    table: Table = {
        0: {0: 3, 1: 3, 5: 3, 6: 3, 7: 3},
        1: {0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 6: 0, 7: 0, 8: 0},
        2: {1: 0, 5: 0},
        3: {1: 0, 5: 0, 7: 3},
        5: {0: 3, 1: 3, 5: 3, 6: 3, 7: 3},
        6: {0: 3, 1: 0, 5: 0, 6: 0, 7: 0},
        7: {0: 3, 1: 0, 5: 0, 6: 0, 7: 0, 8: 0},
        8: {0: 3, 1: 0, 5: 0, 6: 0, 7: 0, 8: 0},
    }
    return paired(table, 2, num_attn_2_3, num_attn_1_2)


# What each value of a variable says for each of CLASSES; the largest sum is the answer.
BASE = (0, 0, 0, 0, 0, 0, 0)
SCORES: dict[str, dict[Any, tuple[int, ...]]] = {
    "tokens": {
        "0": (14, -4, -6, -2, -7, -6, -4),
        "1": (-7, 13, -7, -3, -7, -6, -5),
        "2": (-4, -1, 10, -1, -8, -4, 1),
        "3": (0, 0, -1, 17, -3, -2, -4),
        "4": (-3, -2, -4, 0, 12, -3, -3),
        "5": (-2, -3, -3, -2, -3, 14, 0),
        "<s>": (0, 0, 0, 0, 0, 0, 0),
    },
    "positions": {
        0: (0, 0, 0, 0, 0, 0, 0),
        1: (7, -4, 42, 21, -8, 8, -57),
        2: (9, 3, 3, 2, 5, 14, 3),
        3: (14, 12, 10, 17, 23, 15, -94),
        4: (3, 6, -3, 0, 11, -2, 16),
        5: (-14, -14, -24, -16, -10, -11, 8),
        6: (-33, -8, -40, -27, -38, -50, 66),
        7: (-1, -13, 0, 0, -3, 0, 20),
    },
    "attn_0_0": {
        "0": (10, -1, -1, 7, 1, 4, 5),
        "1": (-1, 5, -4, 1, -2, 0, 6),
        "2": (-1, -3, 15, -3, 3, -1, -36),
        "3": (4, -1, 0, 6, 0, 5, 4),
        "4": (0, -1, -3, 1, 9, 1, 4),
        "5": (3, 0, -1, 7, 2, 6, 6),
        "<s>": (-3, 0, -1, 5, -1, -1, -3),
    },
    "attn_0_1": {
        "0": (11, -2, -1, 3, 2, 0, 3),
        "1": (-2, 7, -3, -3, -3, -3, -9),
        "2": (-3, -2, 6, 2, 0, 2, -1),
        "3": (-4, -4, -6, 6, -4, 0, -12),
        "4": (1, -2, 0, 3, 9, 3, -6),
        "5": (-2, -4, -3, 0, -1, 8, -9),
        "<s>": (-2, -6, 8, 1, -4, 3, 18),
    },
    "attn_0_2": {
        "0": (0, 0, 0, 0, 0, 0, 0),
        "1": (9, 0, 7, -9, 11, -13, 14),
        "2": (4, -2, 4, 1, 5, -11, 35),
        "3": (6, -1, 3, 4, 4, -8, -8),
        "4": (0, 0, 0, 0, 0, 0, 0),
        "5": (2, 1, 4, -6, -4, 15, -49),
        "<s>": (4, 1, 0, 7, 4, -11, 0),
    },
    "attn_0_3": {
        "0": (17, -1, 3, 2, 1, -3, -2),
        "1": (-1, 14, -2, -2, 0, -4, -2),
        "2": (2, -1, 12, 4, -1, -2, 0),
        "3": (-2, -4, -3, 11, -3, -5, -5),
        "4": (0, -4, -3, -1, 8, -6, -12),
        "5": (1, 0, 1, -1, 1, 11, -4),
        "<s>": (-1, -4, 1, -1, -5, -4, 8),
    },
    "mlp_0_1": {
        1: (7, 0, 7, 7, 3, 2, -48),
        5: (-1, -2, 0, 0, -2, 0, 7),
        6: (3, -2, -8, -3, 3, 1, 13),
    },
    "num_mlp_0_0": {
        0: (0, 0, 4, 8, -4, 15, -19),
        2: (-1, -2, 2, -1, -3, 5, 3),
        3: (4, 4, 2, -2, 5, -9, -2),
        4: (-5, -5, -5, 10, -10, -54, 10),
        5: (-13, 9, 1, 0, -17, 3, 13),
        7: (4, 4, 1, -7, 4, -5, -12),
    },
    "num_mlp_0_1": {
        0: (-1, 3, 0, -5, 6, -2, -11),
        1: (1, 0, -2, 4, -2, 0, 12),
        2: (15, -67, -14, 6, 1, -5, 15),
        4: (-6, 3, -2, 0, 16, 6, -13),
        6: (3, -12, 11, 2, -35, 16, -4),
        7: (7, 3, 3, 4, 6, 1, -8),
    },
    "attn_1_0": {
        "0": (6, 4, 6, 1, 3, 1, 7),
        "1": (-2, 3, 1, -4, -2, -2, -1),
        "2": (-1, -1, 9, 0, -4, -3, -4),
        "3": (-7, -4, -1, 4, -5, -5, -17),
        "4": (0, 3, 4, 1, 5, -1, -11),
        "5": (-2, -1, 1, -3, -2, 7, -17),
        "<s>": (3, 6, 3, -2, 9, 0, 18),
    },
    "attn_1_1": {
        "0": (10, 0, 2, 2, -1, 2, -1),
        "1": (-1, 3, -2, -2, -3, -3, -2),
        "2": (2, 1, 6, 2, -4, 2, -16),
        "3": (6, 3, 3, 1, -1, 7, -11),
        "4": (1, -3, 0, -3, 2, 3, -10),
        "5": (3, -2, 1, 1, -2, 9, 7),
        "<s>": (2, -4, -2, 4, -6, 4, 7),
    },
    "attn_1_2": {
        "0": (6, -2, 1, 0, 2, 2, -6),
        "1": (-2, 3, -2, -1, -1, 3, -4),
        "2": (1, -2, 5, 1, 1, 1, -9),
        "3": (1, -2, 0, 4, 3, 3, -11),
        "4": (3, 1, -1, 0, 7, 5, -14),
        "5": (0, -3, -1, -1, 1, 7, -11),
        "<s>": (-3, -6, 3, 0, -3, 0, 20),
    },
    "attn_1_3": {
        "0": (20, -2, 4, -3, -5, 2, -1),
        "1": (-4, 20, -2, -2, -3, 2, 7),
        "2": (1, -4, 18, 5, -3, 4, 5),
        "3": (-2, -4, 1, 20, -7, -3, 0),
        "4": (-5, -6, -3, -7, 12, -5, -1),
        "5": (-4, -3, 2, -5, -10, 20, -3),
        "<s>": (2, 2, -2, 3, -1, 1, -9),
    },
    "mlp_1_0": {
        0: (-1, -4, -2, 3, 1, 3, -2),
        2: (1, -3, 1, 2, 0, 5, 0),
        3: (6, -5, 0, 6, 7, 6, 0),
        6: (0, -6, 2, -9, 1, 4, 7),
        7: (-1, -6, -1, -3, -1, 7, -9),
    },
    "mlp_1_1": {
        0: (-18, 3, 11, 9, 3, 7, -51),
        1: (-8, -11, -15, -10, -16, -18, 66),
        7: (13, 5, 6, 5, 5, 5, -40),
    },
    "num_mlp_1_1": {
        1: (-2, 4, -2, 9, -4, 6, -8),
        3: (5, -3, 2, 1, 5, 1, -1),
    },
    "attn_2_0": {
        0: (2, 0, 2, 4, -7, 1, -7),
        1: (1, 3, 3, 1, -21, 4, 10),
        2: (-8, 14, 3, 1, -26, 8, -5),
        4: (-8, -10, -4, -2, 21, -2, -6),
        6: (-4, 6, -2, -1, 31, 2, -5),
        7: (2, 2, 1, 1, 2, -1, -7),
    },
    "attn_2_1": {
        "0": (10, 2, 1, -1, -1, 2, -11),
        "1": (1, 8, 2, -2, -3, 2, -5),
        "2": (-1, 2, 7, -2, -3, 1, -15),
        "3": (4, 3, 2, 5, -2, 2, -5),
        "4": (5, 7, 6, 1, 10, 5, -4),
        "5": (3, 3, 2, -1, 1, 10, -5),
        "<s>": (2, 0, -2, 3, -2, 2, 27),
    },
    "attn_2_2": {
        "0": (2, 1, 2, 5, 2, 7, -7),
        "1": (5, 3, 7, 3, 5, 7, -5),
        "2": (1, 3, -1, 3, 5, 8, -9),
        "3": (7, 3, 4, -7, 5, 6, -4),
        "4": (4, 2, 2, 2, 2, 8, 0),
        "5": (7, 4, 4, 9, 5, -11, -6),
        "<s>": (2, -2, 1, 3, -3, 1, 4),
    },
    "attn_2_3": {
        0: (2, 1, 0, 5, -7, 1, -20),
        2: (-2, -1, -1, 1, 4, -6, 4),
        3: (-6, -5, -2, -3, 1, 5, -8),
        4: (9, 3, 7, -9, 13, -28, 16),
        5: (16, -12, 4, 7, -29, -3, 3),
        7: (2, -1, 1, 8, 10, 12, -22),
    },
    "mlp_2_1": {
        0: (13, 0, 2, 8, -10, 0, 0),
        1: (6, 0, 6, 10, -5, 6, 0),
        2: (-3, -2, 0, -5, -1, 6, 11),
        4: (-4, 1, -3, 15, -2, 5, 2),
        6: (4, 5, 1, 13, 1, -10, -24),
    },
    "num_mlp_2_0": {
        2: (8, 2, 1, 2, 6, 1, -6),
        5: (-15, 1, -1, 3, 2, -4, 4),
    },
    "num_mlp_2_1": {
        0: (0, 2, 9, 1, 0, 3, -3),
        2: (5, 6, -26, 1, 5, 8, -7),
        3: (-1, 0, -4, -2, -2, 1, -3),
    },
    "num_attn_0_0": {
        0: (-10, -15, -12, -2, -2, 2, 24),
        1: (1, 20, 3, -6, 3, 8, -23),
        2: (4, -23, -1, -1, 4, 9, 9),
        3: (-1, -131, -7, -12, 15, 2, 1),
        4: (-1, -70, 12, -9, 7, 6, 5),
        5: (-6, -14, -12, 1, 15, -4, 35),
        6: (-1, -1, 0, 1, 4, -3, 0),
        7: (0, 0, 0, 0, 0, 0, 0),
        8: (0, 0, 0, 0, 0, 0, 0),
    },
    "num_attn_0_1": {
        0: (-6, -23, -14, -5, -2, -11, 50),
        1: (3, 20, 4, -3, 2, -1, -21),
        2: (17, -61, 19, 9, 17, 11, -22),
        3: (11, -181, 17, 9, 12, 4, -12),
        4: (12, -145, 20, 10, 23, 20, 8),
        5: (0, -47, 22, -9, 0, -12, 3),
        6: (0, -5, 0, 0, 0, 0, 5),
        7: (0, 0, 0, 0, 0, 0, 0),
        8: (0, 0, 0, 0, 0, 0, 0),
    },
    "num_attn_0_2": {
        0: (-2, 3, -10, -16, -36, -10, 69),
        1: (0, 8, 0, 1, 24, 8, -32),
        2: (14, 9, 6, 2, -49, -8, -13),
        3: (-2, -3, -1, -10, -66, -9, -19),
        4: (-17, -7, -16, -23, -36, -18, 3),
        5: (-11, 17, 0, -5, -5, -24, 13),
        6: (0, 0, 0, 0, -7, 0, 8),
        7: (0, 0, 0, 0, 0, 0, 0),
        8: (0, 0, 0, 0, 0, 0, 0),
    },
    "num_attn_0_3": {
        0: (-2, -8, -1, -10, -12, -23, 49),
        1: (4, -1, 9, 3, -2, 6, -19),
        2: (8, -2, 8, 17, 0, -36, -2),
        3: (-1, -11, 1, 14, -5, -72, -10),
        4: (-7, -17, -2, 16, -25, -19, 5),
        5: (-20, -5, -3, 14, -36, -4, 7),
        6: (0, 0, 0, 0, -6, 0, 6),
        7: (0, 0, 0, 0, 0, 0, 0),
        8: (0, 0, 0, 0, 0, 0, 0),
    },
    "num_attn_1_0": {
        0: (-7, -4, -5, -20, -15, -4, 32),
        1: (0, -7, 1, 11, -11, 18, -23),
        2: (1, 5, -4, -14, 29, -27, -6),
        3: (-20, 54, -19, -48, 104, -139, -4),
        4: (-20, -3, -23, -35, 117, -128, 2),
        5: (-16, 7, -9, -33, 42, -12, 10),
        6: (-1, 0, 0, -4, 5, 0, 0),
        7: (0, 0, 0, 0, 0, 0, 0),
        8: (0, 0, 0, 0, 0, 0, 0),
    },
    "num_attn_1_1": {
        0: (-17, 0, -1, 2, -8, -1, 14),
        1: (-13, 10, 4, 8, 4, 6, -10),
        2: (40, -10, -17, -7, -16, -9, -15),
        3: (68, -38, -56, -43, -42, -42, -2),
        4: (66, -31, -36, -30, -31, -29, 0),
        5: (14, -6, -3, -3, 2, -7, 0),
        6: (0, 0, 0, 0, 0, 0, 0),
        7: (0, 0, 0, 0, 0, 0, 0),
        8: (0, 0, 0, 0, 0, 0, 0),
    },
    "num_attn_1_2": {
        0: (-12, -14, -13, -9, 4, -8, 42),
        1: (-1, 8, -2, 14, 18, -12, -22),
        2: (7, -13, 15, -29, -14, 31, -6),
        3: (-2, -93, 2, -64, -121, 115, -8),
        4: (-15, -32, 2, -36, -149, 111, 2),
        5: (-1, -14, -13, -13, -14, 42, 10),
        6: (0, 0, -1, 0, 0, 2, 0),
        7: (0, 0, 0, 0, 0, 0, 0),
        8: (0, 0, 0, 0, 0, 0, 0),
    },
    "num_attn_1_3": {
        0: (7, -44, 9, -2, 0, -3, 36),
        1: (5, 1, 0, 10, 4, -1, -3),
        2: (-13, 44, -16, -6, -15, -20, -9),
        3: (-32, 92, -34, -29, -33, -34, -29),
        4: (-21, 82, -34, -14, -27, -29, -4),
        5: (-5, 21, -1, -20, -3, 6, -1),
        6: (0, -1, -1, -1, 0, -3, 5),
        7: (0, 0, 0, 0, 0, 0, 0),
        8: (0, 0, 0, 0, 0, 0, 0),
    },
    "num_attn_2_0": {
        0: (-6, -3, -10, -2, -5, -2, 24),
        1: (0, 4, 4, 0, 4, 4, -11),
        2: (-14, -7, 41, -9, -7, -7, -10),
        3: (-26, -25, 80, -26, -24, -26, -11),
        4: (-28, -38, 68, -21, -21, -22, 0),
        5: (-2, -3, 47, -12, -20, -5, 5),
        6: (0, 0, 0, 0, 0, 0, 0),
        7: (0, 0, 0, 0, 0, 0, 0),
        8: (0, 0, 0, 0, 0, 0, 0),
    },
    "num_attn_2_1": {
        0: (-4, -2, 0, 0, -4, -7, -4),
        1: (-4, 3, 5, 2, -4, 0, -2),
        2: (-1, 7, 5, -7, 3, 3, -1),
        3: (-15, -9, -8, -5, -11, -10, -6),
        4: (0, -14, -7, 6, -14, -18, -23),
        5: (-7, -20, -15, 19, -17, 3, -19),
        6: (0, 0, 0, 0, 0, 0, 0),
        7: (0, 0, 0, 0, 0, 0, 0),
        8: (0, 0, 0, 0, 0, 0, 0),
    },
    "num_attn_2_2": {
        0: (-54, -3, -9, -9, -5, -5, 89),
        1: (20, 3, 1, 3, -2, 2, -55),
        2: (-12, 6, 6, 6, 3, 9, -29),
        3: (-123, 9, 12, 12, 3, 9, 3),
        4: (-115, 5, 13, 9, 7, 12, 12),
        5: (-47, -1, 7, -1, -4, 4, 27),
        6: (0, 0, 0, 0, 0, 0, 0),
        7: (0, 0, 0, 0, 0, 0, 0),
        8: (0, 0, 0, 0, 0, 0, 0),
    },
    "num_attn_2_3": {
        0: (-6, 1, -40, -7, -1, 1, 66),
        1: (1, 3, 27, 2, 2, 8, -42),
        2: (5, 5, -15, 8, 4, 11, -12),
        3: (6, 5, -106, 6, 6, 14, 5),
        4: (4, 11, -79, 11, 7, 13, 22),
        5: (9, -2, -57, 0, 6, -5, 5),
        6: (0, 0, 0, 0, 0, 0, 0),
        7: (0, 0, 0, 0, 0, 0, 0),
        8: (0, 0, 0, 0, 0, 0, 0),
    },
}


def run(tokens: list[str]) -> list[str]:
    """Answer at every position of an input that starts with "<s>"."""
    if not 0 < len(tokens) <= LENGTH or not set(tokens) <= set(WORDS):
        raise ValueError(f"Give 1 to {LENGTH} words out of {' '.join(WORDS)}.")
    positions = list(range(len(tokens)))
    ones = [1] * len(tokens)
    attn_0_0_out = attn_0_0(positions, tokens)
    attn_0_1_out = attn_0_1(positions, tokens)
    attn_0_2_out = attn_0_2(positions, tokens)
    attn_0_3_out = attn_0_3(positions, tokens)
    num_attn_0_0_out = num_attn_0_0(positions, tokens, ones)
    num_attn_0_1_out = num_attn_0_1(positions, tokens, ones)
    num_attn_0_2_out = num_attn_0_2(positions, tokens, ones)
    num_attn_0_3_out = num_attn_0_3(positions, tokens, ones)
    mlp_0_0_out = mlp_0_0(positions)
    mlp_0_1_out = mlp_0_1(positions, attn_0_0_out)
    num_mlp_0_0_out = num_mlp_0_0(num_attn_0_2_out, num_attn_0_3_out)
    num_mlp_0_1_out = num_mlp_0_1(num_attn_0_0_out, num_attn_0_2_out)
    attn_1_0_out = attn_1_0(num_mlp_0_0_out, positions, attn_0_0_out)
    attn_1_1_out = attn_1_1(positions, attn_0_1_out)
    attn_1_2_out = attn_1_2(positions, mlp_0_0_out, attn_0_1_out)
    attn_1_3_out = attn_1_3(positions, tokens)
    num_attn_1_0_out = num_attn_1_0(positions, tokens, ones)
    num_attn_1_1_out = num_attn_1_1(mlp_0_1_out, tokens, ones)
    num_attn_1_2_out = num_attn_1_2(positions, tokens, ones)
    num_attn_1_3_out = num_attn_1_3(attn_0_0_out, tokens, ones)
    mlp_1_0_out = mlp_1_0(attn_0_0_out, attn_1_1_out)
    mlp_1_1_out = mlp_1_1(positions)
    num_mlp_1_1_out = num_mlp_1_1(num_attn_1_0_out, num_attn_1_2_out)
    attn_2_0_out = attn_2_0(attn_0_0_out, tokens, num_mlp_0_1_out)
    attn_2_1_out = attn_2_1(positions, mlp_0_0_out, attn_1_3_out)
    attn_2_2_out = attn_2_2(attn_0_0_out, mlp_1_1_out, attn_1_0_out)
    attn_2_3_out = attn_2_3(attn_1_2_out, mlp_0_0_out, num_mlp_0_0_out)
    num_attn_2_0_out = num_attn_2_0(attn_0_0_out, tokens, ones)
    num_attn_2_1_out = num_attn_2_1(mlp_0_0_out, num_mlp_1_1_out, ones)
    num_attn_2_2_out = num_attn_2_2(mlp_1_1_out, tokens, ones)
    num_attn_2_3_out = num_attn_2_3(positions, tokens, ones)
    mlp_2_1_out = mlp_2_1(positions, attn_2_2_out)
    num_mlp_2_0_out = num_mlp_2_0(num_attn_2_1_out, num_attn_2_2_out)
    num_mlp_2_1_out = num_mlp_2_1(num_attn_1_2_out, num_attn_2_3_out)
    read: dict[str, Column] = {
        "tokens": tokens,
        "positions": positions,
        "attn_0_0": attn_0_0_out,
        "attn_0_1": attn_0_1_out,
        "attn_0_2": attn_0_2_out,
        "attn_0_3": attn_0_3_out,
        "num_attn_0_0": num_attn_0_0_out,
        "num_attn_0_1": num_attn_0_1_out,
        "num_attn_0_2": num_attn_0_2_out,
        "num_attn_0_3": num_attn_0_3_out,
        "mlp_0_1": mlp_0_1_out,
        "num_mlp_0_0": num_mlp_0_0_out,
        "num_mlp_0_1": num_mlp_0_1_out,
        "attn_1_0": attn_1_0_out,
        "attn_1_1": attn_1_1_out,
        "attn_1_2": attn_1_2_out,
        "attn_1_3": attn_1_3_out,
        "num_attn_1_0": num_attn_1_0_out,
        "num_attn_1_1": num_attn_1_1_out,
        "num_attn_1_2": num_attn_1_2_out,
        "num_attn_1_3": num_attn_1_3_out,
        "mlp_1_0": mlp_1_0_out,
        "mlp_1_1": mlp_1_1_out,
        "num_mlp_1_1": num_mlp_1_1_out,
        "attn_2_0": attn_2_0_out,
        "attn_2_1": attn_2_1_out,
        "attn_2_2": attn_2_2_out,
        "attn_2_3": attn_2_3_out,
        "num_attn_2_0": num_attn_2_0_out,
        "num_attn_2_1": num_attn_2_1_out,
        "num_attn_2_2": num_attn_2_2_out,
        "num_attn_2_3": num_attn_2_3_out,
        "mlp_2_1": mlp_2_1_out,
        "num_mlp_2_0": num_mlp_2_0_out,
        "num_mlp_2_1": num_mlp_2_1_out,
    }
    answers = []
    for i in range(len(tokens)):
        rows = [BASE, *(SCORES[name][column[i]] for name, column in read.items())]
        totals = [sum(scores) for scores in zip(*rows, strict=True)]
        answers.append(CLASSES[totals.index(max(totals))])
    return answers


if __name__ == "__main__":
    sys.stdout.write(" ".join(run(sys.argv[1:])) + "\n")
