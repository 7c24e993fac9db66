"""The command-line parser: its errors are one line with the nearest valid name."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse.typing import register_type

from protoat.errors import UserError
from protoat.names import nearest
from protoat.pixels import Pixels
from protoat.recipes.overrides import spelled_out
from protoat.spelling import Verbatim, argument, setting

MODE = "protoat"
_OF_DATA = {"--data": {"HF": ("HFDataset", "--data.path")}}


# What a key whose value is a class may have, by short name; none is None.
_Choices = Callable[[str], Mapping[str, type | None]]
# Inner types before those that hold them.
_WORDS: dict[str, str | Callable[[re.Match[str]], str]] = {
    r"<class '(?:\w+\.)*(\w+)'>": r"\1",
    r"Literal\[([^][]*)\]": lambda found: found[1].replace("'", "").replace(", ", " or "),
    r"(?:Sequence|list)\[[^][]*\]": "a list",
    r"(?:Mapping|dict)\[[^][]*\]": "a mapping",
    r"\bstr\b": "text",
    r"\bint\b": "whole number",
    r"\bfloat\b": "number",
    r"\bbool\b": "true or false",
    r"\bPath\b": "path",
    r" \| ": " or ",
}


def _in_words(text: str, *, none_is_a_choice: bool) -> str:
    """The end of an option's help, in which jsonargparse names types, as a user would say it.

    >>> _in_words("file (type: Path | none, default: none)", none_is_a_choice=False)
    'file (type: path)'
    >>> kind = "Union[int, Literal['a'], Mapping[str, Sequence[str]], Mapping[str, Mapping[str, str]], none]"
    >>> _in_words(f"groups (type: {kind})", none_is_a_choice=True)
    'groups (type: whole number or a or a mapping or none)'
    >>> _in_words("data (required, type: Source)", none_is_a_choice=True)
    'data (type: Source)'
    """
    help_text, bracket, end = text.rpartition(" (")
    if none_is_a_choice:
        end = end.removeprefix("required, ")  # a recipe brings it
    if not end.removeprefix("required, ").startswith(("type: ", "one of ", "default: ")):
        return text
    kind, comma, default = end.removesuffix(")").partition("default: ")
    before = None
    while kind != before:  # mappings may hold mappings
        before = kind
        for pattern, words in _WORDS.items():
            kind = re.sub(pattern, words, kind)
    kind = re.sub(
        r"(?:Union|Optional)\[([^][]*)\]", lambda found: " or ".join(dict.fromkeys(found[1].split(", "))), kind
    )
    if not none_is_a_choice:
        kind = kind.replace(" or none", "")
        if default in ("none", "[]", "False"):
            comma = default = ""
    told = f"{kind}{comma}{default}".removesuffix(", ")
    return f"{help_text}{bracket}{told})" if told else help_text


class _HelpFormatter(jsonargparse.DefaultHelpFormatter):
    """Names the classes an option takes in short, and no class of other packages."""

    choices: _Choices
    none_is_a_choice: bool

    def _expand_help(self, action: Any) -> str:
        text = str(super()._expand_help(action)).replace("``", "").replace("null", "none")
        text = text.replace("type: Pixels", "type: number or fraction such as 8/255")
        text = re.sub(r"{'class_path': '(?:\w+\.)*(\w+)'}", r"\1", text)
        names = ", ".join(self.choices(action.dest))
        kind = f"one of {names}, or a dotted path" if names else "dotted path of a function"
        text = re.sub(r"type: .*?((?:, default: .*?)?), known subclasses: .*", rf"{kind}\1)", text)
        return _in_words(text, none_is_a_choice=self.none_is_a_choice)

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and heading.replace("``", ""))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        parts = text.split("\n\n")  # an indented one is a formula
        return "\n\n".join(part if part.startswith(" ") else fill(part, width, indent) for part in parts)


class Parser(jsonargparse.ArgumentParser):
    """Parser of recipes and commands; ``none`` means null in values and in files, ``8/255`` is read where pixels are.

    Args:
        choices: for a key whose value is a class, the classes it may have by short name; used in hints.

    Attributes:
        none_is_a_choice: whether help says where nothing is the default, as in a recipe, whose keys may be ``none``.
        named_classes: class names that the command line gives, by key; see `protoat.recipes.reading.resolve`.

    Raises:
        ValueError: in use, for an unknown class, key or value: one line, with the nearest valid name.

    >>> parser = Parser(prog="example")
    >>> _ = parser.add_argument("--epochs", type=int)
    >>> parser.parse_args(["--epoch", "3"])
    Traceback (most recent call last):
    protoat.errors.UserError: --epoch is unknown; did you mean '--epochs'?
    """

    none_is_a_choice = False

    def __init__(self, *args: Any, choices: _Choices = lambda key: {}, **options: Any) -> None:
        formatter = type(
            "HelpFormatter",
            (_HelpFormatter,),
            {"choices": staticmethod(choices), "none_is_a_choice": self.none_is_a_choice},
        )
        defaults: dict[str, Any] = {"parser_mode": MODE, "allow_abbrev": False, "formatter_class": formatter}
        super().__init__(*args, **defaults | options)
        self.choices = choices
        self.named_classes: dict[str, str] = {}

    def add_class_arguments(
        self, class_type: type, nested_key: str | None = None, *args: Any, **options: Any
    ) -> list[str]:
        if nested_key is not None:
            self.epilog = _explanation(class_type)
        return list(super().add_class_arguments(class_type, nested_key, *args, **options))

    def _print_message(self, message: str, file: Any = None) -> None:
        (file or sys.stderr).write(message)  # argparse would not say that the disk is full

    def parse_args(self, args: Any = None, namespace: Any = None, **options: Any) -> Any:  # type: ignore[override]
        """As of jsonargparse; ``--data HF:NAME`` stands for the data set of that name."""
        return super().parse_args(None if args is None else spelled_out(list(args), _OF_DATA), namespace, **options)

    def add_trust(self) -> None:
        """Adds ``--trust``, which `protoat.recipes.own_code.named_in` reads before anything is parsed."""
        self.add_argument(
            "--trust",
            action="append",
            default=[],
            metavar="NAME",
            help="code of your own that recipes may name, such as mymodels.Net, also from here; may be repeated",
        )

    def instantiate(self, *args: Any, **options: Any) -> Any:
        """The objects that were asked for; what a class has to say against its arguments is said in its words."""
        try:
            return super().instantiate(*args, **options)
        except ValueError as error:
            # For an optional value jsonargparse lists what each of its types has to say; the first is the one meant.
            reasons = re.findall(r"^ *- (.+)$", str(error), re.MULTILINE)
            raise UserError(reasons[0] if reasons else str(error)) from error

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if not self.exit_on_error:
            super().error(message, ex)
        options = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        raise UserError(_explain(message, options, self.choices)) from None


def _explanation(described: type) -> str:
    """What a docstring says beside its first line and its arguments: how it works, where it comes from."""
    _, *paragraphs = (inspect.getdoc(described) or "").replace("``", "").replace("::", ":").split("\n\n")
    return "\n\n".join(part for part in paragraphs if not part.startswith(("Args:", "Attributes:", "Raises:", ">>>")))


def _explain(message: str, options: list[str], choices: _Choices) -> str:
    """The essence of jsonargparse's explanation, and the nearest valid name."""
    key = ".".join(dict.fromkeys(re.findall(r'Parser key "([^"]+)"', message)))
    if found := re.search(r"unrecognized arguments: (--[^\s=]+)", message):
        same = _below(found[1], options, choices)
        meant = f"did you mean {' or '.join(map(repr, same))}?" if same else nearest(found[1], options)
        return f"{found[1]} is unknown; {meant}"
    if found := re.search(r"Option '([^']+)' is not accepted|does not accept option '([^']+)'", message):
        word = found[1] or found[2]
        group = re.search(r"Group '([^']+)'", message)
        inside = key or (group[1] if group else "")
        class_path = re.search(r"class_path[= ]'([^']+)'", message)
        known = _arguments(class_path[1]) if class_path else _keys(options, inside)
        name, first = f"{inside}.{word}" if inside else word, word.partition(".")[0]
        others = _with_argument(choices(inside), first)
        instead = f", or name a class that has it: --{inside} {' or '.join(others[:3])}" if others else ""
        return f"{argument(name)} is unknown; {nearest(first, known)}{instead}"
    if (found := re.search(r"Expected a dot import path string: ([\w.-]*\w)", message)) and (
        known := list(choices(key))
    ):
        return f"{argument(key)} {found[1]!r} is unknown; {nearest(found[1], known)}"
    if (found := re.search(r"Given value: (?:NestedArg\(key='|Namespace\()(\w+)", message)) and (there := choices(key)):
        classes = [name for name in _with_argument(there, found[1]) or there if name != "none"]
        return (
            f"{argument(f'{key}.{found[1]}')} is of a class, and none is named; add --{key} {' or '.join(classes[:3])}"
        )
    return _expected(key, message)


def _below(option: str, options: list[str], choices: _Choices) -> list[str]:
    """Options that lie in a group and end like the one that was written: ``--optimizer.lr`` for ``--lr``."""
    word = option.removeprefix("--").rpartition(".")[2].replace("-", "_")
    plain = [known for known in options if "." in known and known.rpartition(".")[2] == word]
    return plain or [f"{known}.{word}" for known in options if _with_argument(choices(known[2:]), word)]


def _with_argument(classes: Mapping[str, type | None], word: str) -> list[str]:
    """Names of the classes that take an argument, and not from the run itself, as models do `num_classes`."""
    taken = {name: inspect.signature(found).parameters.get(word) for name, found in classes.items() if found}
    return [
        name
        for name, argument in taken.items()
        if argument is not None and (argument.kind is argument.KEYWORD_ONLY or argument.default is not argument.empty)
    ]


def _keys(options: list[str], group: str) -> list[str]:
    """Keys one level below `group`, as they stand in a file."""
    start = f"{group}." if group else ""
    names = [option.removeprefix("--") for option in options]
    return [name.removeprefix(start).partition(".")[0] for name in names if name.startswith(start)]


def _arguments(class_path: str) -> list[str]:
    """Keyword arguments of a class, by its dotted path."""
    module, _, name = class_path.rpartition(".")
    parameters = inspect.signature(getattr(import_module(module), name)).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]


def _expected(key: str, message: str) -> str:
    """Which types or values would have done for `key`."""
    if found := re.search(r"Not of type \w+: (.+)", message):
        return f"{argument(key)}: {found[1]}"
    if found := re.search(r"Expected '([^']+)' to be a subclass of <class '([^']+)'>", message):
        return f"{argument(key)} {found[1]} is no {found[2].rpartition('.')[2]}"
    if found := re.search(
        r"callable class: ((?!Parser key|Option).+?)\.? Got value: (?:Namespace\(class_path=')?([\w.]+)", message
    ):
        if re.fullmatch(r"Expected '.+' to be a function that returns <class 'Module'>\.?", found[1]):
            return f"{argument(key)} {found[2]} does not say that it returns a network; annotate it: -> nn.Module"
        missing = re.fullmatch("No module named '(.+)'", found[1])
        hint = "; run the command in the folder that holds it, or install it" if missing else ""
        return f"{argument(key)} {found[2]} cannot be used: {found[1]}{hint}"
    types = [_plain(text) for text in re.findall(r"Expected an? ([^\n:]+?)(?:: \S+|\.* Got value.*)?(?:\n|$)", message)]
    given = re.search(r"Given value: (?:NestedArg\(.*val=)?'?(.+?)'?\)?(?:\. Got value|\n|$)", message)
    given = given or re.search(r"Got value: (.+?)\.?(?: Got value|\n|$)", message)
    if key and types and given:
        return f"{setting({key: Verbatim(given[1])})} is not valid; expected {' or '.join(dict.fromkeys(types))}"
    return " ".join(message.split())


def _plain(expected: str) -> str:
    """``<class 'int'>`` and ``typing.Literal['a', 'b']`` in words."""
    expected = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", expected.strip())
    expected = re.sub(r"(?:\w+\.)+Literal\[(.+)\]", r"\1", expected).replace("', '", "' or '")
    words = {"NoneType": "none", "Mapping": "a mapping", "Sequence": "a list", "list": "a list"}
    return {**words, "dot import path string": "a class"}.get(expected, expected)


def _none_is_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _none_is_null(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_none_is_null(entry) for entry in value]
    return None if value == "none" else value


def plain_pixels(value: float) -> str | float:
    """``8/255`` where that is exact, else the number.

    >>> plain_pixels(8 / 255), plain_pixels(0.3)
    ('8/255', 0.3)
    """
    fraction = f"{round(value * 255)}/255"
    return fraction if Pixels(fraction) == value else float(value)


jsonargparse.set_loader(
    MODE, lambda text: _none_is_null(jsonargparse.get_loader("yaml")(text)), exceptions=(yaml.YAMLError,)
)
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # that of libyaml, where it is there, is much faster
jsonargparse.set_dumper(MODE, lambda value: yaml.dump(value, Dumper=_DUMPER, sort_keys=False, default_flow_style=False))
register_type(Pixels, serializer=plain_pixels, deserializer=Pixels)
