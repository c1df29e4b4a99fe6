"""Python's serialisation streams read as inert data: nothing is imported, looked up or called.

A stream is a program for a stack machine. Where that program would import a name or call it, this reader writes down
the name and the arguments (`Symbol`, `Call`) and goes on, so a stream from an untrusted file can at worst be refused.
Protocols 0 to 5; persistent ids become `PersistentId`; out-of-band buffers and extension codes are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from unipot.errors import InputError

_MARK = object()


@dataclass(frozen=True)
class Symbol:
    """A name that the stream refers to, such as a class or function; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Call:
    """A call or construction that the stream asks for and that did not take place.

    Attributes:
        function: what would have been called.
        arguments: with these.
        state: what would have been given to the new object's `__setstate__` or `__dict__`.
        items: what would have been appended, or (key, value) pairs that would have been set.
    """

    function: Any
    arguments: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class PersistentId:
    """An object that lives outside of the stream."""

    value: Any


def read_stream(data: bytes, start: int = 0) -> tuple[Any, int]:
    """The object that a stream describes, as inert data, and the position behind the stream.

    Raises:
        ValueError: the bytes are no such stream, are cut short, or use something that is refused.
    """
    machine = _Machine(data, start)
    try:
        return machine.run(), machine.position
    except (IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError, struct.error, OverflowError, RecursionError) as error:
        raise InputError(f"not a readable serialisation stream ({type(error).__name__} at byte {machine.position})") from error


class _Machine:
    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while True:
            code = self.take(1)
            if code == b".":
                return self.stack.pop()
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise InputError(f"operation {code!r} at byte {self.position - 1} is not read")
            operation(self)

    def take(self, n_bytes: int) -> bytes:
        end = self.position + n_bytes
        if n_bytes < 0 or end > len(self.data):
            raise InputError(f"the stream ends at byte {len(self.data)}, in the middle of a value")
        value = self.data[self.position : end]
        self.position = end
        return value

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> str:
        end = self.data.index(b"\n", self.position) + 1
        return self.take(end - self.position)[:-1].decode("utf-8")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop_to_mark(self) -> list[Any]:
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def pop_many(self, n: int) -> list[Any]:
        if n > len(self.stack):
            raise IndexError("stack is empty")
        items = self.stack[-n:]
        del self.stack[-n:]
        return items


def _append(machine: _Machine, items: list[Any]) -> None:
    target = machine.stack[-1]
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, set):
        target.update(items)
    else:
        target.items.extend(items)


def _set(machine: _Machine, items: list[Any]) -> None:
    target, pairs = machine.stack[-1], list(zip(items[::2], items[1::2], strict=True))
    if isinstance(target, dict):
        target.update(pairs)
    else:
        target.items.extend(pairs)


def _call(machine: _Machine) -> None:
    function, arguments = machine.pop_many(2)
    machine.push(Call(function, arguments))


def _call_with_keywords(machine: _Machine) -> None:
    function, arguments, keywords = machine.pop_many(3)
    machine.push(Call(function, (*arguments, keywords)))


def _build(machine: _Machine) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if not isinstance(target, Call):
        raise InputError("a state is given to something that is no object")
    target.state = state


def _symbol_from_stack(machine: _Machine) -> None:
    module, name = machine.pop_many(2)
    if not (isinstance(module, str) and isinstance(name, str)):
        raise InputError("a name in the stream is no text")
    machine.push(Symbol(module, name))


def _instance(machine: _Machine) -> None:
    symbol = Symbol(machine.line(), machine.line())
    machine.push(Call(symbol, tuple(machine.pop_to_mark())))


def _memorise(machine: _Machine, key: int) -> None:
    machine.memo[key] = machine.stack[-1]


def _text_integer(text: str) -> Any:
    return {"00": False, "01": True}[text] if text in ("00", "01") else int(text.removesuffix("L"))


def _push(value: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(value(machine))


def _sized(layout: str, decode: Callable[[bytes], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(decode(machine.take(machine.number(layout))))


def _utf8(value: bytes) -> str:
    return value.decode("utf-8", "surrogatepass")


def _long(value: bytes) -> int:
    return int.from_bytes(value, "little", signed=True)


def _latin1(value: bytes) -> str:
    return value.decode("latin1")


#: code -> what it does; the names are those of Python's own documentation of the format
_OPERATIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": lambda m: m.take(1),  # PROTO
    b"\x95": lambda m: m.take(8),  # FRAME
    b"(": lambda m: m.push(_MARK),  # MARK
    b"0": lambda m: m.stack.pop(),  # POP
    b"1": lambda m: m.pop_to_mark(),  # POP_MARK
    b"2": lambda m: m.push(m.stack[-1]),  # DUP
    b"N": _push(lambda m: None),  # NONE
    b"\x88": _push(lambda m: True),  # NEWTRUE
    b"\x89": _push(lambda m: False),  # NEWFALSE
    b"I": _push(lambda m: _text_integer(m.line())),  # INT
    b"L": _push(lambda m: _text_integer(m.line())),  # LONG
    b"F": _push(lambda m: float(m.line())),  # FLOAT
    b"J": _push(lambda m: m.number("<i")),  # BININT
    b"K": _push(lambda m: m.number("<B")),  # BININT1
    b"M": _push(lambda m: m.number("<H")),  # BININT2
    b"G": _push(lambda m: m.number(">d")),  # BINFLOAT
    b"\x8a": _sized("<B", _long),  # LONG1
    b"\x8b": _sized("<i", _long),  # LONG4
    b"V": _push(lambda m: m.line()),  # UNICODE
    b"X": _sized("<I", _utf8),  # BINUNICODE
    b"\x8c": _sized("<B", _utf8),  # SHORT_BINUNICODE
    b"\x8d": _sized("<Q", _utf8),  # BINUNICODE8
    b"T": _sized("<i", _latin1),  # BINSTRING
    b"U": _sized("<B", _latin1),  # SHORT_BINSTRING
    b"B": _sized("<I", bytes),  # BINBYTES
    b"C": _sized("<B", bytes),  # SHORT_BINBYTES
    b"\x8e": _sized("<Q", bytes),  # BINBYTES8
    b"\x96": _sized("<Q", bytearray),  # BYTEARRAY8
    b"]": _push(lambda m: []),  # EMPTY_LIST
    b"l": _push(lambda m: m.pop_to_mark()),  # LIST
    b"a": lambda m: _append(m, [m.stack.pop()]),  # APPEND
    b"e": lambda m: _append(m, m.pop_to_mark()),  # APPENDS
    b")": _push(lambda m: ()),  # EMPTY_TUPLE
    b"t": _push(lambda m: tuple(m.pop_to_mark())),  # TUPLE
    b"\x85": _push(lambda m: tuple(m.pop_many(1))),  # TUPLE1
    b"\x86": _push(lambda m: tuple(m.pop_many(2))),  # TUPLE2
    b"\x87": _push(lambda m: tuple(m.pop_many(3))),  # TUPLE3
    b"}": _push(lambda m: {}),  # EMPTY_DICT
    b"s": lambda m: _set(m, m.pop_many(2)),  # SETITEM
    b"u": lambda m: _set(m, m.pop_to_mark()),  # SETITEMS
    b"\x8f": _push(lambda m: set()),  # EMPTY_SET
    b"\x90": lambda m: _append(m, m.pop_to_mark()),  # ADDITEMS
    b"\x91": _push(lambda m: frozenset(m.pop_to_mark())),  # FROZENSET
    b"c": _push(lambda m: Symbol(m.line(), m.line())),  # GLOBAL
    b"\x93": _symbol_from_stack,  # STACK_GLOBAL
    b"R": _call,  # REDUCE
    b"\x81": _call,  # NEWOBJ
    b"\x92": _call_with_keywords,  # NEWOBJ_EX
    b"i": _instance,  # INST
    b"b": _build,  # BUILD
    b"p": lambda m: _memorise(m, int(m.line())),  # PUT
    b"q": lambda m: _memorise(m, m.number("<B")),  # BINPUT
    b"r": lambda m: _memorise(m, m.number("<I")),  # LONG_BINPUT
    b"\x94": lambda m: _memorise(m, len(m.memo)),  # MEMOIZE
    b"g": lambda m: m.push(m.memo[int(m.line())]),  # GET
    b"h": lambda m: m.push(m.memo[m.number("<B")]),  # BINGET
    b"j": lambda m: m.push(m.memo[m.number("<I")]),  # LONG_BINGET
    b"P": _push(lambda m: PersistentId(m.line())),  # PERSID
    b"Q": _push(lambda m: PersistentId(m.stack.pop())),  # BINPERSID
}
