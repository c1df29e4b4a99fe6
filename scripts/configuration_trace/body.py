"""One pass over the body of a function: what its expressions may be, and whom it calls with what."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import TYPE_CHECKING

from configuration_trace.source import Function, Room, is_named, is_static
from configuration_trace.values import NOTHING, Kind, Value, contents, flat, item, join, listed, mapping, without_tuples

if TYPE_CHECKING:
    from configuration_trace.walk import Walk

COPIES = {"replace", "dataclasses.replace", "copy.copy", "copy.deepcopy", "deepcopy", "copy.replace"}
PARTIAL = {"partial", "functools.partial"}
#: calls whose value is their arguments', and methods whose value is that of the container
SAME = {"list", "tuple", "set", "frozenset", "sorted", "reversed", "iter", "next", "dict", "min", "max", "cast", "filter", "chain"}
SAME_METHODS = {"values", "get", "pop", "copy", "setdefault", "popitem"}
STORING = {"append", "add", "extend", "update", "insert", "setdefault"}


class Body:
    """One pass over the body of a room."""

    def __init__(self, walk: Walk, room: Room) -> None:
        self.walk, self.source, self.room = walk, walk.source, room

    def run(self) -> None:
        node = self.room.node
        if isinstance(node, ast.Lambda):
            self.walk.give_back(self.room, self.value(node.body))
        else:
            self.statements(node.body)

    def statements(self, nodes: Iterable[ast.stmt]) -> None:
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                self.walk.hold(self.room, node.name, self._lambda(node))
            elif isinstance(node, ast.Assign):
                value = self.value(node.value)
                for target in node.targets:
                    self.assign(target, value)
            elif isinstance(node, ast.AnnAssign | ast.AugAssign):
                self.assign(node.target, self.value(node.value) if node.value else NOTHING)
            elif isinstance(node, ast.Return):
                self.walk.give_back(self.room, self.value(node.value))
            elif isinstance(node, ast.For | ast.AsyncFor):
                self.assign(node.target, flat(self.value(node.iter)))
                self.statements([*node.body, *node.orelse])
            elif not isinstance(node, ast.ClassDef):
                self.rest(node)

    def rest(self, node: ast.AST) -> None:
        """Expressions and blocks of any other statement."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child)
            elif isinstance(child, ast.stmt):
                self.statements([child])
            elif isinstance(child, ast.withitem):
                value = self.value(child.context_expr)
                if child.optional_vars:
                    self.assign(child.optional_vars, value)
            else:
                self.rest(child)

    def assign(self, target: ast.expr, value: Value) -> None:
        if isinstance(target, ast.Name):
            self.walk.hold(self.room, target.id, value)
        elif isinstance(target, ast.Starred):
            self.assign(target.value, value)
        elif isinstance(target, ast.Tuple | ast.List):
            for number, element in enumerate(target.elts):
                self.assign(element, join(*(item(kind, number, len(target.elts)) for kind in value)))
        elif isinstance(target, ast.Attribute):
            for kind in self.value(target.value):
                if kind[0] == "instance":
                    self.walk.keep(kind[1], target.attr, value)
        elif isinstance(target, ast.Subscript):
            self.assign(target.value, value if isinstance(target.slice, ast.Slice) else mapping(value))

    def value(self, node: ast.expr | None) -> Value:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is not None:
            return method(node)
        if node is not None:
            self.rest(node)
        return NOTHING

    def _all(self, *nodes: ast.expr | None) -> Value:
        return join(*(self.value(node) for node in nodes))

    def _name(self, node: ast.Name) -> Value:
        room: Room | None = self.room
        while room is not None:
            self.walk.readers[room].add(self.room)
            if node.id in room.names:
                return room.names[node.id]
            room = room.outer
        return self._meant(self.source.meaning(self.room.module, node.id), self.room.module, node.id)

    def _meant(self, key: str | None, module: str, name: str) -> Value:
        if key in self.source.rooms:
            return frozenset({("function", key, 0)})
        if key in self.source.classes:
            return frozenset({("class", key)})
        found = self.source.constant(module, name)
        return Body(self.walk, self.source.top[found[0]]).value(found[1]) if found else NOTHING

    def _attribute(self, node: ast.Attribute) -> Value:
        base = self.value(node.value)
        values = []
        if (module := self.source.dotted(self.room.module, node.value)) in self.source.trees:
            values.append(self._meant(self.source.meaning(module, node.attr), module, node.attr))
        for kind in base:
            if kind[0] == "instance":
                for key in self.source.ancestors(kind[1]):
                    held = self.source.classes[key]
                    self.walk.readers[key].add(self.room)
                    annotation = next(
                        (s.annotation for s in held.node.body if isinstance(s, ast.AnnAssign) and is_named(s.target, node.attr)), None
                    )
                    values += [held.attributes.get(node.attr, NOTHING), self.walk.annotated(held.module, annotation)]
            if kind[0] in ("instance", "class"):
                for method in self.source.methods(kind[1], node.attr):
                    values.append(self._bound(method, frozenset({kind}), node))
        return join(*values)

    def _bound(self, method: Room, value: Value, node: ast.AST) -> Value:
        """A method of `value`, or what it returns if it is a property."""
        decorators = {ast.unparse(d).split(".")[-1] for d in method.node.decorator_list}
        instance = any(kind[0] == "instance" for kind in value)
        given = {method.parameters[0]: value} if instance and method.parameters and not is_static(method.node) else {}
        self.walk.enter(method, given, self.room, node)
        if decorators & {"property", "cached_property"}:
            self.walk.readers[method].add(self.room)
            return method.returned
        return frozenset({("function", str(method), 1 if given or "classmethod" in decorators else 0)})

    def _subscript(self, node: ast.Subscript) -> Value:
        self.value(node.slice)
        number = node.slice.value if isinstance(node.slice, ast.Constant) else None
        return join(*(item(kind, number, 0) if isinstance(number, int) else contents({kind}) for kind in self.value(node.value)))

    def _tuple(self, node: ast.Tuple) -> Value:
        if any(isinstance(e, ast.Starred) for e in node.elts):
            return self._all(*node.elts)
        values = tuple(self.value(e) for e in node.elts)
        return frozenset({("tuple", tuple(map(without_tuples, values)))})

    def _list(self, node: ast.List | ast.Set) -> Value:
        return listed(self._all(*node.elts))

    _set = _list

    def _dict(self, node: ast.Dict) -> Value:
        self._all(*node.keys)
        spread = [self.value(value) for key, value in zip(node.keys, node.values, strict=True) if key is None]
        return join(mapping(self._all(*(value for key, value in zip(node.keys, node.values, strict=True) if key))), *spread)

    def _ifexp(self, node: ast.IfExp) -> Value:
        self.value(node.test)
        return self._all(node.body, node.orelse)

    def _boolop(self, node: ast.BoolOp) -> Value:
        return self._all(*node.values)

    def _binop(self, node: ast.BinOp) -> Value:
        return self._all(node.left, node.right)

    def _starred(self, node: ast.Starred | ast.Await | ast.YieldFrom) -> Value:
        return flat(self.value(node.value))

    _await = _yieldfrom = _starred

    def _yield(self, node: ast.Yield) -> Value:
        self.walk.give_back(self.room, self.value(node.value))
        return NOTHING

    def _namedexpr(self, node: ast.NamedExpr) -> Value:
        value = self.value(node.value)
        self.assign(node.target, value)
        return value

    def _lambda(self, node: Function) -> Value:
        room = self.source.of_node[node]
        for name, default in room.with_default.items():
            self.walk.hold(room, name, self.value(default))
        return frozenset({("function", str(room), 0)})

    def _listcomp(self, node: ast.ListComp | ast.DictComp) -> Value:
        for generator in node.generators:
            self.assign(generator.target, flat(self.value(generator.iter)))
            self._all(*generator.ifs)
        if isinstance(node, ast.DictComp):
            self.value(node.key)
            return mapping(self.value(node.value))
        return listed(self.value(node.elt))

    _setcomp = _generatorexp = _dictcomp = _listcomp

    # calls

    def _call(self, node: ast.Call) -> Value:
        name = ast.unparse(node.func)
        values = [self.value(a) for a in node.args]
        keywords = {k.arg: self.value(k.value) for k in node.keywords}
        if name in COPIES and values:
            for key in [kind[1] for kind in values[0] if kind[0] == "instance"]:
                for attribute, value in keywords.items():
                    self.walk.keep(key, attribute, value)
            return values[0]
        if name in PARTIAL and values:
            return join(*(self._partly(kind, node, values[1:], keywords) for kind in values[0]))
        called = self._super(node) if name.startswith("super().") else self.value(node.func)
        results = [self._called(kind, node, values, keywords) for kind in called if kind[0] not in ("tuple", "mapping", "list")]
        if results or called:
            return join(*results)
        return self._library(node, name, values, keywords)

    def _super(self, node: ast.Call) -> Value:
        owner = self.room.owner
        bases = list(self.source.ancestors(owner))[1:] if owner else []
        method = next((m for c in bases if (m := self.source.classes[c].methods.get(node.func.attr))), None)
        return self._bound(method, self.room.names.get(self.room.parameters[0], NOTHING), node) if method else NOTHING

    def _library(self, node: ast.Call, name: str, values: list[Value], keywords: dict[str | None, Value]) -> Value:
        """A call of something outside the package, which calls the functions that it is given."""
        if isinstance(node.func, ast.Attribute):
            own = self.value(node.func.value)
            if node.func.attr in STORING:
                self.assign(node.func.value, join(*map(without_tuples, [*values, *keywords.values()])))
            if node.func.attr == "items":
                return listed(frozenset({("tuple", (NOTHING, without_tuples(contents(own))))}))
            if node.func.attr in SAME_METHODS:
                return join(own if node.func.attr == "copy" else contents(own), *values)
        if name in ("zip", "enumerate"):
            columns = [NOTHING, *values] if name == "enumerate" else values
            return listed(frozenset({("tuple", tuple(without_tuples(flat(v)) for v in columns))}))
        if name == "dict":
            return join(mapping(join(*keywords.values())), *values)
        if name.split(".")[-1] in SAME:
            return listed(flat(join(*values)))
        for kind in join(*values, *keywords.values()):
            if kind[0] == "function":
                given = [flat(v) for v in values[1:]] if name == "map" else []
                self._called(kind, node, given, {})
        return NOTHING

    def _called(self, kind: Kind, node: ast.Call, values: list[Value], keywords: dict[str | None, Value]) -> Value:
        if kind[0] == "function":
            room = self.source.rooms[kind[1]]
            self.walk.enter(room, self._given(room, kind[2], node, values, keywords), self.room, node)
            self.walk.readers[room].add(self.room)
            return room.returned
        if kind[0] == "class":
            return self._made(kind[1], node, values, keywords)
        methods = self.source.methods(kind[1], "__call__")
        return join(*(self._called(k, node, values, keywords) for m in methods for k in self._bound(m, frozenset({kind}), node)))

    def _partly(self, kind: Kind, node: ast.Call, values: list[Value], keywords: dict[str | None, Value]) -> Value:
        if kind[0] != "function":
            return self._called(kind, node, values, keywords) if kind[0] == "class" else NOTHING
        room = self.source.rooms[kind[1]]
        self.walk.enter(room, self._given(room, kind[2], None, values, keywords), self.room, node)
        return frozenset({("function", kind[1], min(kind[2] + len(values), len(room.parameters)))})

    def _given(
        self, room: Room, first: int, node: ast.Call | None, values: list[Value], keywords: dict[str | None, Value]
    ) -> dict[str, Value]:
        """Values by parameter; after a starred argument all that remain may be any."""
        names, given = room.parameters[first:], {name: v for name, v in keywords.items() if name}
        starred = bool(node and any(isinstance(a, ast.Starred) for a in node.args))
        for number, value in enumerate(values):
            name = names[number] if number < len(names) else room.node.args.vararg.arg if room.node.args.vararg else None
            if name:
                given[name] = join(given.get(name, NOTHING), value)
        if starred:
            for name in names[len(values) :]:
                given.setdefault(name, flat(join(*values)))
        return given

    def _made(self, key: str, node: ast.Call, values: list[Value], keywords: dict[str | None, Value]) -> Value:
        """An instance of a class of the package, and what its attributes hold."""
        made = frozenset({("instance", key)})
        if initial := self.source.method(key, "__init__"):
            given = self._given(initial, 1, node, values, keywords)
            self.walk.enter(initial, {**given, initial.parameters[0]: made}, self.room, node)
        else:
            fields = [name for each in reversed(list(self.source.ancestors(key))) for name in self.source.classes[each].declared]
            for name, value in [*zip(fields, values, strict=False), *keywords.items()]:
                if name:
                    self.walk.keep(key, name, value)
        for each in self.source.ancestors(key):
            for method in self.source.classes[each].methods.values():
                if method.node.name == "__post_init__" or self.source.has_library_base(key):
                    self.walk.enter(method, {method.parameters[0]: made} if method.parameters else {}, self.room, node)
        return made
