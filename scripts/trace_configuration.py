"""Through how many functions does the configuration of a command pass? Read off the source; nothing of the package is run or imported.

    python scripts/trace_configuration.py                 # of `unipot finetune`, in this checkout
    python scripts/trace_configuration.py --list          # names every function and every call
    python scripts/trace_configuration.py --root DIRECTORY --start unipot.workflows.pretrain:pretrain

A *room* is a function or method of the package that receives as an argument (`self` included) the configuration object itself, a changed
copy of it (`dataclasses.replace`), a container of such, or an object that holds one of these (an instance of a class one of whose
attributes is one). A section (`config.trainer`) or a single value is not counted. A *stay* is a place in the source where a room is
entered with it.

The walk starts at the command's function, whose first parameter is the configuration, and follows values through assignments, tuples,
containers, attributes, returned values, `partial`, and functions that are passed on and called elsewhere. Annotations are believed: a
parameter or a returned value that names the configuration's class, or a class that holds it, is one. Code is taken as if every branch
were run. Methods that a library calls (of classes with a base class from outside the package) count as called.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from configuration_trace.source import Source
from configuration_trace.walk import Walk


def main(words: list[str] | None = None) -> int:
    """Print the counts; with `--list`, every room and stay."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--root", type=Path, default=Path(__file__).resolve().parents[1], help="folder that holds the package; this checkout"
    )
    parser.add_argument("--start", default="unipot.workflows.finetune:finetune", help="module:function whose first parameter is followed")
    parser.add_argument("--list", action="store_true", help="name every function and every place where it is called")
    options = parser.parse_args(words)
    source = Source(options.root, options.start.split(".")[0])
    if options.start not in source.rooms:
        print(f"there is no function {options.start} under {options.root}", file=sys.stderr)
        return 2
    walk = Walk(source, options.start)
    rooms = walk.rooms()
    holders = sorted(key for key in source.classes if key != walk.configuration and walk.carries(frozenset({("instance", key)})))
    if options.list:
        for room in sorted(rooms):
            print(f"{room} ({', '.join(sorted(rooms[room]))})")
            for caller, line, *_ in sorted(entry for entry in walk.entries if entry[3] == room):
                print(f"    from {caller}, line {line}")
        print(f"objects that hold the configuration: {', '.join(holders) or 'none'}")
    modules = {room.split(":")[0] for room in rooms}
    own, others = len(walk.direct | {options.start}), len(rooms) - len(walk.direct | {options.start})
    print(f"{len(rooms)} rooms in {len(walk.entries)} stays, in {len(modules)} modules")
    print(f"{own} rooms receive {walk.configuration.split(':')[1]} itself, {others} only an object that holds it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
