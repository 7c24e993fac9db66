"""Records without what they say of the machine: its name, and where its folders are."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import yaml

from protoat.storage.parsing import parse_json, parse_yaml

_PLACES = ("machine", "platform")
# Also behind an option's = and the attack of a transfer; after a colon two slashes are of an address.
_PATH = re.compile(r"(?:^|(?<=[=:]))(?:~|/(?!/)|[A-Za-z]:\\)")
# The folders of a path, which may stand in a text: up to its last slash.
_FOLDERS = re.compile(r"(?:^|(?<=[\s=:'\"(\[,]))(?:~(?=/)|/(?![/\s])|[A-Za-z]:\\)(?:[^'\"\n,:;=()\[\]]*[/\\])?")


def local_paths(value: Any) -> Iterator[str]:
    """Every path of this machine that plain values name.

    >>> [*local_paths({"transfer:/home/me/other": ["--data.root=~/images", "hf://user/name", "8/255"]})]
    ['/home/me/other', '~/images']
    """
    if isinstance(value, dict):
        value = [*value, *value.values()]  # attacks by transfer are called after the run they come from
    if isinstance(value, list):
        for entry in value:
            yield from local_paths(entry)
    elif isinstance(value, str) and (found := _PATH.search(value)):
        yield value[found.start() :]


def machines(value: Any) -> Iterator[str]:
    """Names of machines in records.

    >>> [*machines({"sessions": [{"machine": "mine"}], "attacks": {"clean": {"machine": ""}}})]
    ['mine']
    """
    if isinstance(value, dict):
        if value.get("machine") and isinstance(value["machine"], str):
            yield value["machine"]
        value = [*value.values()]
    if isinstance(value, list):
        for entry in value:
            yield from machines(entry)


def without_paths(value: Any) -> Any:
    """Plain values in which of a path of this machine only the last part is left.

    >>> without_paths({"transfer:/home/me/other": ["--data.root=~/my images", "hf://user/name", "8/255", "/a/b, last"]})
    {'transfer:other': ['--data.root=my images', 'hf://user/name', '8/255', 'b, last']}
    """
    if isinstance(value, Mapping):
        return {without_paths(key): without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        found = [without_paths(entry) for entry in value]
        return found if isinstance(value, list) else tuple(found)
    if isinstance(value, PurePath):
        value = str(value)
    return _FOLDERS.sub("", value) if isinstance(value, str) else value


def without_places(record: Mapping[str, Any]) -> dict[str, Any]:
    """The same record without names of machines, and with commands without the path of the program.

    They stand where a record says how it came about: of a run in its sessions, of an evaluation beside each attack, of
    an audit at the top. Classes, modes and attacks may be called so too, and stay.

    >>> without_places({"sessions": [{"machine": "mine", "command": ["/home/me/bin/protoat", "train"]}]})
    {'sessions': [{'machine': '', 'command': ['protoat', 'train']}]}
    """
    found = _bare(record)
    if "sessions" in found:
        found["sessions"] = [_bare(session) for session in found["sessions"]]
    if "attacks" in found:
        found["attacks"] = {name: _bare(entry) for name, entry in found["attacks"].items()}
    return found


def _bare(made_with: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: "" if key in _PLACES else value for key, value in made_with.items()}
    if isinstance(command := found.get("command"), list) and command:
        found["command"] = ["protoat", *command[1:]]
    return found


def without_machine(name: str, content: bytes, words: Collection[str] = ()) -> bytes:
    """A file as it may leave this machine: a JSON or YAML record without places and paths, a page without `words`.

    Args:
        name: of the file, whose suffix says what it is; any other kind stays as it is.
        content: of the file.
        words: names of machines, and paths, that a page must not hold; of a path its last part stays.

    >>> without_machine("a.json", b'{"machine": "mine", "data": "/home/me/images"}')
    b'{\\n "machine": "",\\n "data": "images"\\n}'
    >>> without_machine("a.html", b"<p>/home/me/run on mine</p>", ["/home/me/run", "mine"])
    b'<p>run on </p>'
    """
    if name.endswith(".json"):
        record = parse_json(content)
        found = without_paths(without_places(record))
        return content if found == record else json.dumps(found, indent=1).encode()
    if name.endswith(".yaml"):
        record = parse_yaml(content)
        found = without_paths(record)
        return content if found == record else yaml.safe_dump(found, sort_keys=False, width=120).encode()
    if name.endswith(".html") and any(words):
        paths = {word: PurePath(word) for word in words if "/" in word or "\\" in word}
        folders = {f"{folder}/": "" for path in paths.values() for folder in path.parents if len(folder.parts) > 2}
        known = {
            **dict.fromkeys(filter(None, words), ""),
            **{word: path.name for word, path in paths.items()},
            **folders,
        }
        ends = {word: "" if word in folders else r"(?![\w.-])" for word in sorted(known, key=len, reverse=True)}
        any_word = "|".join(f"{re.escape(word)}{end}" for word, end in ends.items())
        return re.sub(rf"(?<![\w.-])(?:{any_word})", lambda found: known[found[0]], content.decode()).encode()
    return content
