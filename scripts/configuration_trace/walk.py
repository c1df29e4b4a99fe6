"""The walk: which functions are reached, and what their parameters, results and attributes may be."""

from __future__ import annotations

import ast
from collections import defaultdict

from configuration_trace.body import Body
from configuration_trace.source import Room, Source, is_static
from configuration_trace.values import NOTHING, Value, contents, join, listed, mapping, without_tuples


class Walk:
    """Follows the configuration from the first parameter of `start` until nothing new is found."""

    def __init__(self, source: Source, start: str) -> None:
        self.source = source
        self.entries: dict[tuple[str, int, int, str], set[str]] = defaultdict(set)  # (caller, line, column, room) -> parameters
        self.direct: set[str] = set()  # rooms that are given the configuration itself
        self.waiting: dict[Room, None] = {}  # rooms to be looked at again
        self.readers: dict[object, set[Room]] = defaultdict(set)  # room or class -> rooms whose values depend on it
        self.start = source.rooms[start]
        annotation = self.start.node.args.args[0].annotation
        self.configuration = source.dotted(self.start.module, annotation) if annotation is not None else None
        if self.configuration not in source.classes:
            raise SystemExit(f"{start}: its first parameter has no class of the package as annotation")
        self._reach(self.start)
        while self.waiting:
            room = next(iter(self.waiting))
            del self.waiting[room]
            Body(self, room).run()
        self.entries.clear()
        for room in [room for room in source.rooms.values() if room.reached]:  # now that it is known which objects hold it
            Body(self, room).run()

    # what is known

    def carries(self, value: Value, seen: frozenset = frozenset()) -> bool:
        """Whether `value` is, holds or contains the configuration."""
        for kind in value:
            if kind[0] == "tuple" and any(self.carries(v, seen) for v in kind[1]):
                return True
            if kind[0] in ("mapping", "list") and self.carries(kind[1], seen):
                return True
            if kind[0] != "instance" or kind[1] in seen:
                continue
            if self.configuration in self.source.ancestors(kind[1]):
                return True
            if any(
                self.carries(v, seen | {kind[1]})
                for c in self.source.ancestors(kind[1])
                for v in self.source.classes[c].attributes.values()
            ):
                return True
        return False

    def annotated(self, module: str, annotation: ast.expr | None) -> Value:
        """Instances that an annotation names, in containers and unions too."""
        if annotation is None:
            return NOTHING
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            return self.annotated(module, ast.parse(annotation.value, mode="eval").body)
        if isinstance(annotation, ast.Subscript):
            outer = ast.unparse(annotation.value).split(".")[-1]
            if outer in ("type", "Literal", "Annotated", "Callable"):
                return NOTHING
            parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
            values = [self.annotated(module, part) for part in parts]
            if outer in ("dict", "Mapping", "MutableMapping", "defaultdict"):
                return mapping(values[-1])
            if outer == "tuple" and not any(isinstance(p, ast.Constant) and p.value is ... for p in parts):
                return frozenset({("tuple", tuple(values))})
            return join(self.annotated(module, annotation.value), listed(join(*values)))
        if isinstance(annotation, ast.BinOp):
            return join(self.annotated(module, annotation.left), self.annotated(module, annotation.right))
        found = self.source.dotted(module, annotation)
        return frozenset({("instance", found)}) if found in self.source.classes else NOTHING

    # what is learned

    def _reach(self, room: Room) -> None:
        if room.reached:
            return
        room.reached = True
        self.waiting[room] = None
        for argument in room.all_parameters:
            self.hold(room, argument.arg, self.annotated(room.module, argument.annotation))
        if room.owner and room.parameters and not is_static(room.node):
            self.hold(room, room.parameters[0], frozenset({("instance", room.owner)}))
        if not isinstance(room.node, ast.Lambda):
            room.returned = join(room.returned, self.annotated(room.module, room.node.returns))

    def hold(self, room: Room, name: str, value: Value) -> None:
        if join(room.names.get(name, NOTHING), value) != room.names.get(name, NOTHING):
            room.names[name] = join(room.names.get(name, NOTHING), value)
            self._look_again(room, room)

    def keep(self, key: str, attribute: str, value: Value) -> None:
        held = self.source.classes[key].attributes
        if join(held.get(attribute, NOTHING), value) != held.get(attribute, NOTHING):
            held[attribute] = join(held.get(attribute, NOTHING), value)
            self._look_again(key)

    def give_back(self, room: Room, value: Value) -> None:
        if join(room.returned, value) != room.returned:
            room.returned = join(room.returned, value)
            self._look_again(room)

    def _look_again(self, changed: object, *rooms: Room) -> None:
        self.waiting.update(dict.fromkeys(room for room in (*self.readers[changed], *rooms) if room.reached))

    def enter(self, room: Room, given: dict[str, Value], caller: Room, node: ast.AST) -> None:
        """A call of `room` with values for its parameters; a default that carries the configuration counts as given."""
        self._reach(room)
        given = {name: room.names.get(name, NOTHING) for name in room.with_default} | given
        names = {argument.arg for argument in room.all_parameters}
        for name, value in given.items():
            target = name if name in names else room.node.args.kwarg.arg if room.node.args.kwarg else None
            if target is None:
                continue
            self.hold(room, target, value)
        for name in names:
            if self.carries(given.get(name, NOTHING)):
                self.entries[(str(caller), node.lineno, node.col_offset, str(room))].add(name)
                if any(
                    kind[0] == "instance" and self.configuration in self.source.ancestors(kind[1])
                    for kind in without_tuples(contents(given[name]) | given[name])
                ):
                    self.direct.add(str(room))

    def rooms(self) -> dict[str, set[str]]:
        """Room -> parameters that carry the configuration."""
        found: dict[str, set[str]] = {str(self.start): {self.start.parameters[0]}}
        for (_, _, _, room), names in self.entries.items():
            found.setdefault(room, set()).update(names)
        return found
