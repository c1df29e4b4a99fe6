"""Help texts and completion: the commands, and every setting of one with its default, unit and range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from importlib import import_module

from unipot.commands import TOPICS, VERBS, WORD_COMMANDS
from unipot.errors import InputError
from unipot.resources import conf_dir

_OPTIONS = """options:
  key.path=value     set one value, for example schedule.max_steps=2000
  group=option       choose a prepared block of settings, see the groups below
  config=my.yaml     read values (and `group: option` lines) from your own file; the command line wins over it
"""
#: shell -> what makes it ask `unipot completion --words ...` for candidates
SHELLS = {
    "bash": """_unipot() {
  local IFS=$'\\n'
  COMPREPLY=($(unipot completion --words "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
  if [ ${#COMPREPLY[@]} -eq 1 ] && [[ ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=/}
complete -o default -F _unipot unipot
""",
    "zsh": """autoload -U +X bashcompinit && bashcompinit
_unipot() {
  local IFS=$'\\n'
  COMPREPLY=($(unipot completion --words "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
}
complete -o default -F _unipot unipot
""",
    "fish": """complete -c unipot -f -a "(unipot completion --words (commandline -cp))"
""",
}


def general_help() -> str:
    """The commands, grouped by what people do."""
    lines = ["usage: unipot <command> [settings]", ""]
    for topic, heading in TOPICS.items():
        lines.append(f"{heading}:")
        lines += [f"  {name:<11} {verb.summary}" for name, verb in VERBS.items() if verb.topic == topic]
        lines += [f"  {name:<11} {summary}" for name, (summary, own) in WORD_COMMANDS.items() if own == topic]
        lines.append("")
    lines += ["`unipot <command> --help` lists every setting with its default, unit and range.", "`unipot --version` prints the version."]
    return "\n".join(lines)


def command_help(name: str) -> str:
    """Summary, example, and every setting of a command: its own, then those of its groups as they are by default."""
    verb, own = VERBS[name], (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8")
    defaults, groups = _defaults(own), groups_of(name)
    lines = [f"unipot {name}: {verb.summary}", "", f"example:\n  {verb.example}", "", _OPTIONS]
    if groups:
        lines += ["groups and their options (* is the default):"]
        for group in groups:
            options = [f"{option}*" if option == defaults.get(group) else option for option in _options(group)]
            lines.append(f"  {group:<12} {', '.join(options)}")
        lines.append("")
    lines += ["settings:", "", _without_defaults(own)]
    for group in groups:
        if defaults.get(group) not in (None, "null"):
            text = (conf_dir() / group / f"{defaults[group]}.yaml").read_text(encoding="utf-8")
            lines += ["", f"{group}:  # as in {group}={defaults[group]}", *(f"  {line}" if line else "" for line in text.splitlines())]
    return "\n".join(lines)


def groups_of(name: str) -> list[str]:
    """Groups that change something of a command: those of its defaults, those that are sections of it, and whole experiments."""
    own, all_groups = (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8"), [p.name for p in conf_dir().iterdir() if p.is_dir()]
    sections = _setting_names(name)
    return sorted(group for group in all_groups if group in _defaults(own) or group in sections and _is_section(own, group))


def candidates(line: str) -> list[str]:
    """What may stand next in a command line: commands, then settings and groups with their options."""
    words = line.split(" ")
    if len(words) <= 2:
        return [name for name in (*VERBS, *WORD_COMMANDS) if name.startswith(words[-1] if len(words) == 2 else "")]
    verb, last = words[1], words[-1]
    if verb not in VERBS:
        return []
    key, sign, value = last.partition("=")
    if sign:
        return [f"{key}={option}" for option in _options(key) if option.startswith(value)] if key in groups_of(verb) else []
    return [f"{name}=" for name in dict.fromkeys([*_setting_names(verb), *groups_of(verb), "config"]) if name.startswith(last)]


def _setting_names(name: str) -> list[str]:
    module, _, schema = VERBS[name].schema.partition(":")
    return [f.name for f in fields(getattr(import_module(module), schema))]


def _options(group: str) -> list[str]:
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def _defaults(text: str) -> dict[str, str]:
    """Group -> option of the list `defaults` at the top of a configuration file."""
    found, inside = {}, False
    for line in text.splitlines():
        if line.startswith("defaults:"):
            inside = True
        elif inside and line.startswith("  - "):
            group, _, option = line[4:].partition("#")[0].partition(":")
            if option:
                found[group.removeprefix("override").strip(" /")] = option.strip()
        elif inside and line.strip() and not line.startswith(" "):
            break
    return found


def _is_section(text: str, group: str) -> bool:
    return f"\n{group}:\n" in text


def _without_defaults(text: str) -> str:
    lines, inside = [], False
    for line in text.splitlines():
        if line.startswith("defaults:"):
            inside = True
            continue
        inside = inside and (line.startswith("  ") or not line.strip())
        if not inside:
            lines.append(line)
    return "\n".join(lines).strip()


def completion(words: Sequence[str]) -> str:
    """`unipot completion bash`: the script; `unipot completion --words <line>`: candidates, one a line.

    Raises:
        ValueError: the shell is not known.
    """
    if words[:1] == ["--words"] and len(words) == 2:
        return "\n".join(candidates(words[1]))
    if len(words) != 1 or words[0] not in SHELLS:
        example = 'eval "$(unipot completion bash)"'
        raise InputError(f"write `unipot completion <shell>` with one of: {', '.join(SHELLS)}; for example `{example}`")
    return SHELLS[words[0]]
