"""The source of a package: its functions and classes, and what names mean in each module."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from pathlib import Path

from configuration_trace.values import NOTHING, Value

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(eq=False)
class Room:
    """A function: where it is, and what its names have been seen to hold."""

    module: str
    name: str
    node: Function
    owner: str | None = None  # class, as `module:Class`
    outer: Room | None = None
    names: dict[str, Value] = field(default_factory=dict)
    returned: Value = NOTHING
    reached: bool = False

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"

    @property
    def parameters(self) -> list[str]:
        arguments = self.node.args
        return [a.arg for a in (*arguments.posonlyargs, *arguments.args)]

    @property
    def with_default(self) -> dict[str, ast.expr]:
        a = self.node.args
        pairs = zip(reversed([*a.posonlyargs, *a.args]), reversed(a.defaults), strict=False)
        return {x.arg: d for x, d in pairs} | {x.arg: d for x, d in zip(a.kwonlyargs, a.kw_defaults, strict=True) if d is not None}

    @property
    def all_parameters(self) -> list[ast.arg]:
        a = self.node.args
        return [*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)]


@dataclass(eq=False)
class Class:
    """A class: its methods, the annotations of its attributes, and what these have been seen to hold."""

    module: str
    node: ast.ClassDef
    methods: dict[str, Room] = field(default_factory=dict)
    attributes: dict[str, Value] = field(default_factory=dict)

    @property
    def declared(self) -> list[str]:
        return [s.target.id for s in self.node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]


class Source:
    """All modules under `root/package`: functions, classes, and what names mean in each module."""

    def __init__(self, root: Path, package: str) -> None:
        self.trees: dict[str, ast.Module] = {}
        self.rooms: dict[str, Room] = {}
        self.classes: dict[str, Class] = {}
        self.imports: dict[str, dict[str, str]] = {}
        self.top: dict[str, Room] = {}  # what is computed at the top of a module
        self.constants: dict[str, dict[str, ast.expr]] = {}
        self.of_node: dict[ast.AST, Room] = {}
        self._ancestors: dict[str, tuple[str, ...]] = {}
        self._methods: dict[tuple[str, str], list[Room]] = {}
        for path in sorted((root / package).rglob("*.py")):
            module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
            tree = self.trees[module] = ast.parse(path.read_text(encoding="utf-8"), str(path))
            self.imports[module] = {}
            self.top[module] = Room(module, "<module>", ast.parse("lambda: 0", mode="eval").body)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    self.imports[module] |= {a.asname or a.name: f"{node.module}:{a.name}" for a in node.names}
                elif isinstance(node, ast.Import):
                    self.imports[module] |= {
                        a.asname or a.name.split(".")[0]: a.name if a.asname else a.name.split(".")[0] for a in node.names
                    }
            self._collect(module, tree, "", None, None)

    def _collect(self, module: str, parent: ast.AST, prefix: str, owner: str | None, outer: Room | None) -> None:
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, ast.ClassDef):
                key = f"{module}:{prefix}{node.name}"
                self.classes[key] = Class(module, node)
                self._collect(module, node, f"{prefix}{node.name}.", key, outer)
            elif isinstance(node, Function):
                name = prefix + (f"<lambda {node.lineno}:{node.col_offset}>" if isinstance(node, ast.Lambda) else node.name)
                room = Room(module, name, node, owner if isinstance(parent, ast.ClassDef) else None, outer)
                self.rooms[str(room)] = self.of_node[node] = room
                if room.owner and not isinstance(node, ast.Lambda):
                    self.classes[room.owner].methods[node.name] = room
                self._collect(module, node, f"{name}.", None, room)
            else:
                self._collect(module, node, prefix, owner if isinstance(parent, ast.ClassDef) else None, outer)

    def meaning(self, module: str, name: str) -> str | None:
        """`module:name` of the function or class, or the module, that a name of `module` stands for; None from outside the package."""
        for _ in range(10):
            key = f"{module}:{name}"
            if key in self.rooms or key in self.classes:
                return key
            target = self.imports.get(module, {}).get(name)
            if target is None:
                return None
            if target.replace(":", ".") in self.trees:
                return target.replace(":", ".")
            if ":" not in target:
                return None
            module, name = target.split(":")
        return None

    def dotted(self, module: str, expression: ast.expr) -> str | None:
        """`meaning` of a dotted name."""
        if isinstance(expression, ast.Name):
            return self.meaning(module, expression.id)
        if isinstance(expression, ast.Attribute):
            left = self.dotted(module, expression.value)
            return self.meaning(left, expression.attr) if left in self.trees else None
        return None

    def ancestors(self, key: str) -> tuple[str, ...]:
        """The class and its bases within the package."""
        if key not in self._ancestors:
            own = self.classes[key]
            bases = [self.dotted(own.module, b.value if isinstance(b, ast.Subscript) else b) for b in own.node.bases]
            self._ancestors[key] = (key, *(a for base in bases if base in self.classes for a in self.ancestors(base)))
        return self._ancestors[key]

    def method(self, key: str, name: str) -> Room | None:
        return next((m for c in self.ancestors(key) if (m := self.classes[c].methods.get(name))), None)

    def methods(self, key: str, name: str) -> list[Room]:
        """The method of a class, and those of subclasses that replace it; none of protocols, which only describe."""
        if (key, name) not in self._methods:
            own = self.method(key, name)
            others = [c.methods[name] for k, c in self.classes.items() if name in c.methods and k != key and key in self.ancestors(k)]
            self._methods[key, name] = [m for m in [*([own] if own else []), *others] if not self.is_protocol(m.owner)]
        return self._methods[key, name]

    def is_protocol(self, key: str | None) -> bool:
        return key is not None and any(ast.unparse(b).split("[")[0].split(".")[-1] == "Protocol" for b in self.classes[key].node.bases)

    def constant(self, module: str, name: str) -> tuple[str, ast.expr] | None:
        """Module and expression of a name that is assigned at the top of a module."""
        target = self.imports.get(module, {}).get(name, "")
        if ":" in target:
            return self.constant(*target.split(":")) if target.split(":")[0] in self.trees else None
        if module not in self.trees:
            return None
        if module not in self.constants:
            nodes = [n for n in self.trees[module].body if isinstance(n, ast.Assign | ast.AnnAssign) and n.value]
            pairs = [(t, n.value) for n in nodes for t in (n.targets if isinstance(n, ast.Assign) else [n.target])]
            self.constants[module] = {t.id: value for t, value in pairs if isinstance(t, ast.Name)}
        found = self.constants[module].get(name)
        return (module, found) if found else None

    def has_library_base(self, key: str) -> bool:
        own = {"Protocol", "Enum", "StrEnum", "NamedTuple", "Generic", "object", "ABC"}
        for each in self.ancestors(key):
            for base in self.classes[each].node.bases:
                plain = base.value if isinstance(base, ast.Subscript) else base
                if self.dotted(self.classes[each].module, plain) is None and ast.unparse(plain).split(".")[-1] not in own:
                    return True
        return False


def is_static(node: Function) -> bool:
    return any(ast.unparse(d) in ("staticmethod", "classmethod") for d in getattr(node, "decorator_list", []))


def is_named(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name
