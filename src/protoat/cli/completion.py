"""Scripts that complete commands and options in a shell."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from importlib import import_module

from protoat.errors import UserError

_EVERYWHERE = ("--help", "--json", "--quiet", "--traceback")
_OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*", re.IGNORECASE)
_BASH = """\
_protoat() {
    local current="${COMP_WORDS[COMP_CWORD]}" words
    case "${COMP_WORDS[1]}" in
%(cases)s
        *) words="" ;;
    esac
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="%(commands)s --completion --help --version"
    elif [[ "$current" != -* ]]; then
        COMPREPLY=($(compgen -f -- "$current"))
        return
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o filenames -F _protoat protoat
"""
_SHELLS = ("bash", "zsh", "fish")


def script(words: Sequence[str], commands: Sequence[str]) -> str:
    """What ``protoat --completion SHELL`` prints.

    Args:
        words: the shell: bash, zsh or fish.
        commands: of protoat.

    Raises:
        ValueError: another shell, or none.
    """
    if len(words) != 1 or words[0] not in _SHELLS:
        raise UserError(f"--completion {' '.join(words)} is unknown; write one of {', '.join(_SHELLS)}")
    options = {command: _options(command) for command in commands}
    if words[0] == "fish":
        return _fish(options)
    cases = "\n".join(f'        {command}) words="{" ".join(own)}" ;;' for command, own in options.items())
    found = _BASH % {"cases": cases, "commands": " ".join(commands)}
    return found if words[0] == "bash" else f"autoload -U +X bashcompinit && bashcompinit\n{found}"


def _options(command: str) -> list[str]:
    """Those that the help of a command names."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        import_module(f"protoat.cli.{command}").main(["--help"])
    return sorted({*_OPTION.findall(text.getvalue()), *_EVERYWHERE})


def _fish(options: Mapping[str, Sequence[str]]) -> str:
    lines = [f"complete -c protoat -n __fish_use_subcommand -f -a '{' '.join(options)}'"]
    for command, own in options.items():
        seen = f"'__fish_seen_subcommand_from {command}'"
        lines += [f"complete -c protoat -n {seen} -l {option.removeprefix('--')}" for option in own]
    return "\n".join([*lines, ""])
