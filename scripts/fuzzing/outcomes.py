"""What became of a damaged input, in one of a few kinds, and which fault it is."""

from __future__ import annotations

import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fuzzing.readers import DESCRIPTION, Reader, Reading

REFUSED, SAME, AS_SAID, WORDS = "refused in one sentence", "same numbers", "as the file says", "other description"
UNCLEAR, OTHER, TRACEBACK, CRASH, HANG = "refused, unclear", "OTHER NUMBERS", "traceback", "crash", "hang"
#: in the order of the table
OUTCOMES = (REFUSED, SAME, AS_SAID, WORDS, UNCLEAR, OTHER, TRACEBACK, CRASH, HANG)
BAD = (UNCLEAR, OTHER, TRACEBACK, CRASH, HANG)
#: characters of a refusal; longer ones are not one sentence
_LONGEST = 800


@dataclass(kw_only=True)
class Outcome:
    """Of one mutant.

    Attributes:
        kind: one of `OUTCOMES`.
        fault: equal for mutants of one fault: error and line, or the parts that differ and the file that was changed.
        detail: message or traceback.
        file, damage: what was changed.
    seconds: that reading took.
    """

    kind: str
    fault: str = ""
    detail: str = ""
    file: str = ""
    damage: str = ""
    seconds: float = field(default=0.0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def outcome_of(reader: Reader, entry: Path, sound: Reading) -> Outcome:
    """Read `entry` and judge it against the reading of the sound input."""
    try:
        found = reader.read(entry)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return _of_error(reader, error, entry)
    different = sorted(part for part in sound.keys() | found.keys() if sound.get(part) != found.get(part))
    if not different:
        return Outcome(kind=SAME)
    if reader.says_so is not None and reader.says_so(entry, found, sound):
        return Outcome(kind=AS_SAID)
    if different == [DESCRIPTION]:
        return Outcome(kind=WORDS)
    return Outcome(kind=OTHER, fault=f"differs in {', '.join(part for part in different if part != DESCRIPTION)}")


def _of_error(reader: Reader, error: BaseException, entry: Path) -> Outcome:
    text = "".join(traceback.format_exception(error))[-6000:]
    if not is_for_user(error):
        return Outcome(kind=TRACEBACK, fault=f"{type(error).__name__} at {_line_of(error)}", detail=text)
    sentence = sentence_of(error)
    if defect := _defect_of(sentence, (entry.name, entry.parent.name) if reader.names_input else ()):
        return Outcome(kind=UNCLEAR, fault=f"{defect}: {type(error).__name__} at {_line_of(error)}", detail=f"{sentence}\n\n{text}")
    return Outcome(kind=REFUSED, detail=sentence)


def is_for_user(error: BaseException) -> bool:
    """Whether the command line shows it as one sentence, and not as a defect."""
    from unipot.errors import UserError

    return isinstance(error, UserError | OSError)


def sentence_of(error: BaseException) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _defect_of(sentence: str, names: tuple[str, ...]) -> str:
    """What a refusal lacks; empty where it is one clear sentence."""
    if len(sentence.split()) < 3:
        return "says nothing"
    if "\n" in sentence.strip():
        return "more than a line"
    if len(sentence) > _LONGEST:
        return f"more than {_LONGEST} characters"
    if not sentence.isprintable():
        return "unprintable characters"
    if names and not any(name in sentence for name in names):
        return "does not name the file"
    return ""


def _line_of(error: BaseException) -> str:
    """The last line of ours that the error passed; where it was raised if it passed none."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _is_ours(frame.filename)]
    frame = (ours or frames)[-1]
    return f"{_short(frame.filename)}:{frame.lineno} {frame.name}"


def _is_ours(file: str) -> bool:
    return "unipot" in Path(file).parts


def _short(file: str) -> str:
    parts = Path(file).parts
    start = len(parts) - 1 - parts[::-1].index("unipot") if "unipot" in parts else len(parts) - 2
    return "/".join(parts[start:])
