"""Plain data out of a pickle that nobody vouches for. No unpickler runs: what a pickle asks for is read, not done.

A pickle is a program for a small stack machine. :func:`read_plain` is such a machine without the dangerous half: it
puts together numbers, text, lists, tuples, dictionaries and sets. Names that a pickle imports are compared with a short
list, and each name on it stands for plain data: torch's number types and devices for their names, numpy's numbers for
Python's, a configuration object of TransformerLens for the dictionary of its fields. Any other name is refused before
anything is made of it, and nothing is imported, called or looked up by name.

Opcodes are those that :mod:`pickle` writes with the protocols 2 to 5 (its default has been 3 or 4 since Python 3).
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

LARGEST = 4 << 20  # bytes; the files that this is for have a few thousand
LARGEST_WEIGHTS = 1 << 30  # bytes
_LONGEST_KEY = 16  # members of a tuple that is a key or in a set; hashing a long one over and over takes for ever
_LARGEST_INT = 1 << 128


@dataclass(frozen=True)
class _Class:
    """Stands for a configuration class: an object of it becomes the dictionary of its fields."""


@dataclass(frozen=True)
class _Function:
    """Stands for a constructor that is on the list, and makes plain data of its arguments."""

    make: Callable[..., Any]


@dataclass
class _NumberType:
    """Stands for a numpy number type."""

    code: str
    order: str = "<"


class _Arguments(tuple[Any, ...]):
    """A tuple with a number type in it, which is good as arguments but is no data."""


def _no_members(*members: Any) -> dict[Any, Any]:
    if members:
        raise ValueError("an ordered dictionary made of arguments")
    return {}


def _set_of(members: Any) -> set[Any]:
    if not isinstance(members, list | tuple):
        raise ValueError("a set that is not made of a list")
    return {_hashable(member) for member in members}


def _device(*parts: Any) -> str:
    if not 1 <= len(parts) <= 2 or not all(isinstance(part, str | int) for part in parts):
        raise ValueError("a device that has no name")
    return ":".join(map(str, parts))


def _bytes(text: Any, codec: Any) -> bytes:
    if not isinstance(text, str) or codec != "latin1":
        raise ValueError("bytes in another form than protocol 2 has for them")
    return text.encode("latin1")


_STRUCT = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u1": "B", "b1": "?"}


def _number_type(code: Any, *flags: Any) -> _NumberType:
    if not isinstance(code, str) or code not in _STRUCT or not all(isinstance(flag, int) for flag in flags):
        raise ValueError("a numpy number type that is not supported")
    return _NumberType(code)


def _number(kind: Any, raw: Any) -> Any:
    if not isinstance(kind, _NumberType) or not isinstance(raw, bytes):
        raise ValueError("a numpy number without its type and bytes")
    try:
        return struct.unpack(kind.order + _STRUCT[kind.code], raw)[0]
    except struct.error:
        raise ValueError("a numpy number of another length than its type has") from None


_CONFIG: Final = "HookedTransformerConfig"
_SCALAR: Final = _Function(_number)
# The only names that a pickle may import, and what they stand for.
ALLOWED: Final[dict[tuple[str, str], Any]] = {
    ("builtins", "set"): _Function(_set_of),
    ("builtins", "frozenset"): _Function(_set_of),
    ("__builtin__", "set"): _Function(_set_of),
    ("__builtin__", "frozenset"): _Function(_set_of),
    ("_codecs", "encode"): _Function(_bytes),
    ("collections", "OrderedDict"): _Function(_no_members),
    ("torch", "device"): _Function(_device),
    **{("torch", kind): f"torch.{kind}" for kind in ("float64", "float32", "float16", "bfloat16")},
    ("numpy", "dtype"): _Function(_number_type),
    ("numpy.core.multiarray", "scalar"): _SCALAR,
    ("numpy._core.multiarray", "scalar"): _SCALAR,
    ("transformer_lens", _CONFIG): _Class(),
    ("transformer_lens.HookedTransformerConfig", _CONFIG): _Class(),
    ("transformer_lens.config.HookedTransformerConfig", _CONFIG): _Class(),
    ("transformer_lens.config.hooked_transformer_config", _CONFIG): _Class(),
}


def read_plain(path: str | Path) -> Any:
    """What a pickle holds, made of None, booleans, numbers, text, bytes, lists, tuples, dictionaries and sets only.

    Containers may hold themselves or each other many times over, as in any pickle: do not walk what comes back
    without a limit.

    Args:
        path: the file; at most 4 MiB.

    Raises:
        ValueError: the file is missing, too large, cut off, no pickle, or imports a name that is not
            on the list.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise ValueError(f"There is no file '{path}'.") from None
    except OSError as error:
        raise ValueError(f"The file '{path}' could not be read ({error.strerror or error}).") from error
    if len(data) > LARGEST:
        raise ValueError(f"The pickle '{path}' is larger than {LARGEST >> 20} MiB; such a file is not read.")
    try:
        return _Machine().run(data)
    except _NotAllowedError as error:
        raise ValueError(
            f"The pickle '{path}' imports '{error}', which could run code; it is refused, and nothing of it was run. "
            "Get the file again from a source that you trust."
        ) from None
    except (ValueError, IndexError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())[:120] if isinstance(error, ValueError) else "it is cut off or damaged"
        raise ValueError(
            f"'{path}' is no whole pickle of plain data ({reason}); get the file again, or save it anew as plain data."
        ) from error


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a state dict that ``torch.save`` wrote, in memory; read with ``weights_only=True``.

    Args:
        path: the file; at most 1 GiB, unpacked too.

    Raises:
        ValueError: the file is missing, too large, cut off, or holds more than tensors by name.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file '{path}'.")
    size, state = path.stat().st_size, None
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(entry.file_size for entry in archive.infolist()))
                if any(name.endswith("constants.pkl") for name in archive.namelist()):
                    raise ValueError("TorchScript")
        if size <= LARGEST_WEIGHTS:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"'{path}' is not a file of plain tensors, is cut off, or would run code ({type(error).__name__}); it is "
            "refused: get it again, or save the state dict anew with torch.save."
        ) from error
    if size > LARGEST_WEIGHTS:
        raise ValueError(f"The weights '{path}' are larger than {LARGEST_WEIGHTS >> 30} GiB; such a file is not read.")
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) and tensor.layout == torch.strided
        for name, tensor in state.items()
    ):
        raise ValueError(f"'{path}' holds no state dict, tensors by name; save model.state_dict().")
    return dict(state)


class _NotAllowedError(Exception):
    """A name that is not on the list; the message is the name."""


class _Mark:
    """Stands on the stack where the members of a container begin."""


_MARK: Final = _Mark()


def _hashable(x: Any) -> Any:
    """``x``, if hashing it is cheap: a scalar, or a short tuple of scalars."""
    plain = (str, bytes, int, float, type(None))
    if isinstance(x, plain):
        return x
    if type(x) is tuple and len(x) <= _LONGEST_KEY and all(isinstance(member, plain) for member in x):
        return x
    raise ValueError("a key or member of a set that is neither text nor a number")


class _Machine:
    """One run over one pickle. Time and memory are at most a multiple of the file's size: the memo is a dictionary, and
    what is copied, which a pickle may ask for again and again, is counted.
    """

    def __init__(self) -> None:
        self.left = LARGEST
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """The object that the pickle ends with."""
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                break
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _EMPTY:
                self.stack.append(_EMPTY[name]())
            elif name in _LITERALS:
                if isinstance(argument, int) and abs(argument) >= _LARGEST_INT:
                    raise ValueError("a number of more than 128 bits")
                self.stack.append(argument)
            else:
                step = getattr(self, f"_{name.lower()}", None) if name in _STEPS else None
                if step is None:
                    raise ValueError(f"the opcode {name}, which plain data does not need")
                step(argument)
        if len(self.stack) != 1:
            raise ValueError("a stack that is not empty at the end")
        return self._plain(self.stack[0])

    @staticmethod
    def _plain(x: Any) -> Any:
        """``x``, unless it is one of the stand-ins, which are no data."""
        if isinstance(x, _Class | _Function | _NumberType | _Arguments | _Mark):
            raise ValueError("a class or function where data should be")
        return x

    def _pop(self) -> Any:
        top = self.stack.pop()
        if top is _MARK:
            raise ValueError("a container without its beginning")
        return top

    def _members(self) -> list[Any]:
        """What stands above the last mark, which goes too."""
        members: list[Any] = []
        while (top := self.stack.pop()) is not _MARK:
            members.append(top)
        return members[::-1]

    def _spend(self, *copied: Any) -> None:
        self.left -= 1 + sum(len(x) for x in copied if isinstance(x, list | tuple | dict | str | bytes))
        if self.left < 0:
            raise ValueError("copies without end")

    def _into(self, kind: type) -> Any:
        """The container that members go into: the top of the stack."""
        top = self.stack[-1]
        if type(top) is not kind:
            raise ValueError(f"members for a {kind.__name__} where there is none")
        return top

    # Each method below is the opcode of its name. All of them are in _STEPS.

    def _proto(self, version: int) -> None:
        if version > 5:
            raise ValueError(f"protocol {version}")

    def _frame(self, length: int) -> None:
        """Frames say how much to read at once; everything is read already."""

    def _mark(self, _: None) -> None:
        self.stack.append(_MARK)

    def _memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _binget(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _long_binput, _long_binget = _binput, _binget

    def _tuple(self, _: None) -> None:
        self._push_tuple(self._members())

    def _tuple1(self, _: None) -> None:
        self._push_tuple([self._pop()])

    def _tuple2(self, _: None) -> None:
        self._push_tuple([self._pop(), self._pop()][::-1])

    def _tuple3(self, _: None) -> None:
        self._push_tuple([self._pop(), self._pop(), self._pop()][::-1])

    def _push_tuple(self, members: list[Any]) -> None:
        kinds = [isinstance(member, _NumberType) for member in members]
        for member, is_kind in zip(members, kinds, strict=True):
            if not is_kind:
                self._plain(member)
        self.stack.append(_Arguments(members) if any(kinds) else tuple(members))

    def _append(self, _: None) -> None:
        member = self._plain(self._pop())
        self._into(list).append(member)

    def _appends(self, _: None) -> None:
        members = list(map(self._plain, self._members()))
        self._into(list).extend(members)

    def _setitem(self, _: None) -> None:
        value, key = self._pop(), self._pop()
        self._into(dict)[_hashable(key)] = self._plain(value)

    def _setitems(self, _: None) -> None:
        members = self._members()
        into = self._into(dict)
        for key, value in zip(members[::2], members[1::2], strict=True):
            into[_hashable(key)] = self._plain(value)

    def _additems(self, _: None) -> None:
        members = list(map(_hashable, self._members()))
        self._into(set).update(members)

    def _frozenset(self, _: None) -> None:
        self.stack.append(set(map(_hashable, self._members())))

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._name(module, name)

    def _stack_global(self, _: None) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("an import whose name is no text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        if (module, name) not in ALLOWED:
            raise _NotAllowedError("".join(c if c.isprintable() else "?" for c in f"{module}.{name}"[:80]))
        self.stack.append(ALLOWED[module, name])

    def _newobj(self, _: None) -> None:
        arguments, made = self._pop(), self._pop()
        if not isinstance(made, _Class) or arguments != ():
            raise ValueError("an object of what is no configuration")
        self.stack.append({})

    def _reduce(self, _: None) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Function) or not isinstance(arguments, tuple) or len(arguments) > 3:
            raise ValueError("a call of what is no function, or with more than it takes")
        self._spend(*arguments)
        try:
            self.stack.append(function.make(*arguments))
        except TypeError:
            raise ValueError("a call with other arguments than it takes") from None

    def _build(self, _: None) -> None:
        state, into = self._pop(), self.stack[-1]
        self._spend(state)
        if (
            isinstance(into, _NumberType)
            and isinstance(state, tuple)
            and len(state) > 1
            and state[1] in ("<", ">", "|")
        ):
            into.order = state[1].replace("|", "<")
        elif type(into) is dict and type(state) is dict and all(isinstance(key, str) for key in state):
            into.update(state)
        else:
            raise ValueError("a state that is not a dictionary of fields")


_CONSTANTS: Final[dict[str, Any]] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: Final[dict[str, Callable[[], Any]]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_LITERALS: Final = frozenset(
    "BININT BININT1 BININT2 LONG1 BINFLOAT SHORT_BINUNICODE BINUNICODE SHORT_BINBYTES BINBYTES".split()
)
_STEPS: Final = frozenset(
    "PROTO FRAME MARK MEMOIZE BINPUT LONG_BINPUT BINGET LONG_BINGET TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS SETITEM "
    "SETITEMS ADDITEMS FROZENSET GLOBAL STACK_GLOBAL NEWOBJ REDUCE BUILD".split()
)
