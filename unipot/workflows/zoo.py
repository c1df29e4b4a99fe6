"""`unipot zoo`: models by their names, found, fetched, verified, carried to other machines, published and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from unipot.data.conversion.disk import in_words
from unipot.errors import InputError
from unipot.nearest import did_you_mean
from unipot.reporting.console import report_console
from unipot.zoo.bundle import import_bundle, write_bundle
from unipot.zoo.cache import Cache, Installed
from unipot.zoo.licences import Licence
from unipot.zoo.locate import cached, get_model, model_path
from unipot.zoo.names import ZooName, parse_name, version_order
from unipot.zoo.registry import read_registry
from unipot.zoo.registry_schema import Entry
from unipot.zoo.show import as_written

USAGE = {
    "list": "unipot zoo list",
    "show": "unipot zoo show <model>",
    "get": "unipot zoo get <model> ...",
    "verify": "unipot zoo verify <model> ...",
    "bundle": "unipot zoo bundle <model> ... -o <file>.tar",
    "import": "unipot zoo import <file>.tar",
    "remove": "unipot zoo remove <model@version> ... | unfinished",
    "size": "unipot zoo size",
    "publish": "unipot zoo publish <run or model> name=<name> version=<version> to=<folder> licence=<licence> [...]",
    "diff": "unipot zoo diff <model> <model> [structures=<file>]",
}


def zoo(words: list[str]) -> int:
    """Run `unipot zoo <words>`.

    Raises:
        ValueError: the words are not a command; whatever the command raises.
    """
    if words[:1] in (["-h"], ["--help"]) or any(word in ("-h", "--help") for word in words[1:]):
        print("usage:\n" + "\n".join(f"  {line}" for line in USAGE.values()))
        return 0
    verb, *rest = words or [""]
    if verb not in USAGE:
        found = f", not {verb!r}{did_you_mean(verb, USAGE)}" if verb else ""
        raise InputError(f"unipot zoo is followed by one of: {', '.join(USAGE)}{found}; `unipot zoo --help` shows how each is written")
    _COMMANDS[verb](rest, report_console())
    return 0


def _require(right: bool, verb: str) -> None:
    if not right:
        raise InputError(f"write `{USAGE[verb]}`")


def _models(words: list[str], verb: str) -> list[str]:
    _require(bool(words) and not any(word.startswith("-") or "=" in word.partition("#")[0] for word in words), verb)
    return words


def list_models(words: list[str], console: Console) -> None:
    """All models of the registries and the cache, with state, size, licence and what they are."""
    _require(not words, "list")
    entries = dict(read_registry().entries)
    here = {item.entry.key: item.entry for item in Cache().installed()}
    if not entries and not here:
        console.print("no models are registered; $UNIPOT_ZOO names registries of your site, ~/.config/unipot/zoo.json is your own")
        return
    table = Table(*(Column(name, overflow="fold") for name in ("model", "state", "size", "licence of the weights", "what")))
    for key in sorted({**entries, **here}, key=lambda key: (key.partition("@")[0], version_order(key.partition("@")[2]))):
        entry = entries.get(key) or here[key]
        state = [entry.status] * (entry.status != "current") + [f"use {entry.superseded_by}"] * bool(entry.superseded_by)
        state += ["in the cache" if key in here else "to fetch"]
        table.add_row(*map(as_written, (key, ", ".join(state), in_words(entry.size), entry.weights.name, _what(entry))))
    console.print(table)


def _what(entry: Entry) -> str:
    levels = "; ".join(f"{head}: {level}" for head, level in entry.heads.items())
    return ". ".join(text for text in (entry.summary.rstrip("."), levels) if text)


def show_model(words: list[str], console: Console) -> None:
    """What a registry says of a model, and its card where it is on this machine; nothing is fetched."""
    _require(len(words) == 1, "show")
    name = parse_name(words[0])
    found, entry = None, None
    if isinstance(name, ZooName):
        registry = read_registry()
        found = cached(name, Cache())
        entry = registry.find(name) if found is None else registry.entries.get(found.entry.key, found.entry)
        facts = [
            ("model", entry.key), ("status", entry.status + (f", use {entry.superseded_by}" if entry.superseded_by else "")),
            ("size", in_words(entry.size)), ("licence of the weights", _licence(entry.weights)),
            ("licence of the code", _licence(entry.code)), ("access", entry.access or "open"),
            ("citation", entry.citation or "none stated"), ("listed in", entry.source),
        ]  # fmt: skip
        _print_facts(console, facts)
        console.print(as_written(f"in the cache: {found.path}" if found else f"not in the cache; `unipot zoo get {entry.key}` brings it"))
    if entry is None or found is not None:
        from unipot.zoo.show import describe_artifact

        console.print(describe_artifact(found.path if found else model_path(words[0])))


def _licence(licence: Licence) -> str:
    return ", ".join(text for text in (licence.name, licence.url, licence.terms) if text)


def _print_facts(console: Console, facts: list[tuple[str, str]]) -> None:
    table = Table.grid(Column(style="bold"), Column(overflow="fold"), padding=(0, 2))
    for fact in facts:
        table.add_row(*map(as_written, fact))
    console.print(table)


def get_models(words: list[str], console: Console) -> list[Installed]:
    """Bring models into the cache, and say what their licences ask for."""
    return [_get(word, console) for word in _models(words, "get")]


def _get(word: str, console: Console) -> Installed:
    name = parse_name(word)
    if isinstance(name, Path):
        raise InputError(f"{word} is a path; a model on this machine needs no fetching: use it as checkpoint={word}")
    with console.status(f"fetching {word}"):
        found = get_model(name, newest=True)
    _say(console, f"{found.entry.key}: {in_words(found.entry.size)}, verified, in {found.path}")
    _say(console, f"  licence of the weights: {_licence(found.entry.weights)}")
    if notice := found.entry.weights.notice(f"{found.entry.key}"):
        _say(console, f"  note: {notice}")
    if found.entry.status != "current":
        instead = f"; use {found.entry.superseded_by}" if found.entry.superseded_by else ""
        _say(console, f"  note: it is {found.entry.status}{instead}")
    return found


def verify_models(words: list[str], console: Console) -> None:
    """Compare everything in models that can be compared with something."""
    from unipot.zoo.verify import verify_model

    for word in _models(words, "verify"):
        for what, found in verify_model(model_path(word)):
            _say(console, f"{what + ':':<14} {found}")
        _say(console, f"nothing is wrong with {word}")


def bundle_models(words: list[str], console: Console) -> None:
    """Put models into one file for a machine without internet; those that are not in the cache are fetched."""
    _require(words.count("-o") == 1 and len(words) > words.index("-o") + 1, "bundle")
    at = words.index("-o")
    models, out = _models([*words[:at], *words[at + 2 :]], "bundle"), Path(words[at + 1])
    path = write_bundle([_get(word, console) for word in models], out)
    size = in_words(path.stat().st_size)
    _say(console, f"{path}: {len(models)} model(s), {size}; `unipot zoo import {path.name}` takes them in on another machine")


def import_models(words: list[str], console: Console) -> None:
    """Bring the models of a bundle into the cache."""
    _require(len(words) == 1, "import")
    for found in import_bundle(Path(words[0]), Cache()):
        notice = found.entry.weights.notice(found.entry.key)
        _say(console, f"{found.entry.key}: {in_words(found.entry.size)}, verified" + (f"\n  note: {notice}" if notice else ""))


def remove_models(words: list[str], console: Console) -> None:
    """Take models out of the cache, or what interrupted downloads have left."""
    cache = Cache()
    for word in _models(words, "remove"):
        if word == "unfinished":
            _say(console, f"unfinished downloads: {in_words(cache.remove_unfinished())} are free now")
            continue
        name = parse_name(word)
        if not isinstance(name, ZooName) or name.version is None:
            raise InputError(f"{word}: say which version, as `unipot zoo list` shows it")
        _say(console, f"{word}: {in_words(cache.remove(str(name)))} are free now")


def show_size(words: list[str], console: Console) -> None:
    """What the cache holds, and how much of it."""
    _require(not words, "size")
    cache = Cache()
    models = cache.installed()
    for item in models:
        _say(console, f"{item.entry.key}: {in_words(item.entry.size)}")
    total = sum({item.entry.digest: item.entry.size for item in models}.values())
    rest = f", and {in_words(cache.unfinished())} of unfinished downloads (`unipot zoo remove unfinished`)" if cache.unfinished() else ""
    _say(console, f"{len(models)} model(s), {in_words(total)} in {cache.folder}{rest}")


def publish_model(words: list[str], console: Console) -> None:
    """Write a model into the folder of a registry."""
    from unipot.workflows.models.publication_settings import publication_of, settings_in
    from unipot.zoo.publish import publish

    sources, settings = settings_in(words)
    _require(len(sources) == 1 and bool(settings), "publish")
    publication = publication_of(settings)
    source = Path(sources[0]) if Path(sources[0]).exists() else model_path(sources[0])
    entry = publish(source, publication)
    _say(console, f"{entry.key}: {in_words(entry.size)}, SHA-256 {entry.files[0].sha256} in {publication.to / entry.name / entry.version}")
    _say(console, f"registry: {publication.to / 'zoo.json'}; whoever names it in $UNIPOT_ZOO has the model as {entry.key}")
    if not publication.url:
        _say(console, "  it is read from this folder; url=https://... says where the folder will be served")


def compare_models(words: list[str], console: Console) -> None:
    """What differs between two models."""
    from unipot.workflows.models.difference_tables import show_difference, structures_of
    from unipot.workflows.models.publication_settings import settings_in
    from unipot.zoo.artifact import load_artifact
    from unipot.zoo.difference import difference

    models, settings = settings_in(words)
    _require(len(models) == 2 and set(settings) <= {"structures"}, "diff")
    structures = structures_of(settings["structures"]) if "structures" in settings else []
    show_difference(console, difference(load_artifact(models[0]), load_artifact(models[1]), structures))


def _say(console: Console, text: str) -> None:
    console.print(as_written(text), highlight=False, soft_wrap=True)


_COMMANDS: dict[str, Callable[[list[str], Console], object]] = {
    "list": list_models, "show": show_model, "get": get_models, "verify": verify_models, "bundle": bundle_models, "import": import_models,
    "remove": remove_models, "size": show_size, "publish": publish_model, "diff": compare_models,
}  # fmt: skip
