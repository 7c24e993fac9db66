"""Errors of the parser: one line, with the nearest valid name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from protoat.names import nearest
from protoat.pixels import Pixels
from protoat.recipes.parser import Parser
from protoat.recipes.reading import read_recipe


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("--method FreAT", "method 'FreAT' is unknown; did you mean 'FreeAT'?"),
        ("--method foo.Bar", "method foo.Bar cannot be used: No module named 'foo'; run the command in"),
        ("--method protoat.data.MNIST", "method protoat.data.MNIST is no Method"),
        ("--method FreeAT --method.replay 4", "method.replay is unknown; did you mean 'replays'?"),
        ("--method.steps seven", "method.steps=seven is not valid; expected int"),
        ("--method.step_size 2/0", "method.step_size: '2/0' is not a pixel distance; write 0.03 or 8/255"),
        ("--regularizer SoftTripel", "regularizer 'SoftTripel' is unknown; did you mean 'SoftTriple'?"),
        (
            "--regularizer none --regularizer.tau 0.1",
            "regularizer.tau is of a class, and none is named; add --regularizer",
        ),
        ("--modes.clusters 4", "modes.clusters is of a class, and none is named; add --modes DiscoveredModes"),
        ("--weighting.stp 4", "weighting.stp is of a class, and none is named; add --weighting"),
        ("--averaging.decay 0.9", "averaging.decay is of a class, and none is named; add --averaging EMA"),
        ("--regularizer nnoe", "regularizer 'nnoe' is unknown; did you mean 'none'?"),
        ("--regularizer.prototype_per_class 3", "did you mean 'prototypes_per_class'?"),
        ("--regularizer.prototypes_per_class x", "regularizer.prototypes_per_class=x is not valid; expected int or a"),
        ("--data MNITS", "data 'MNITS' is unknown; did you mean 'MNIST'?"),
        ("--data.rot x", "data.rot is unknown; did you mean 'root'?"),
        ("--model LeNte", "model 'LeNte' is unknown; did you mean 'LeNet'?"),
        ("--optimizer SDG", "optimizer 'SDG' is unknown; did you mean 'SGD'?"),
        ("--optimizer.lr fast", "optimizer.lr=fast is not valid; expected float"),
        ("--schedule.milestones soon", "schedule.milestones=soon is not valid; expected a list"),
        ("--threat.eps 8", "eps=8 is outside (0, 1]; pixels are in [0, 1], so write 8/255"),
        ("--threat.eps big", "threat.eps: 'big' is not a pixel distance"),
        ("--threat.norm l3", "threat.norm=l3 is not valid; expected 'linf' or 'l2' or 'l1'"),
        ("--threat.epss 1", "--threat.epss is unknown; did you mean '--threat.eps'?"),
        ("--evaluation_threat.eps 9", "eps=9 is outside (0, 1]"),
        ("--groups four", "groups=four is not valid; expected int or 'superclasses' or a mapping or none"),
        ("--epoch 3", "--epoch is unknown; did you mean '--epochs'?"),
        ("--epochs three", "epochs=three is not valid; expected int"),
        ("--augment.flp true", "augment.flp is unknown; did you mean 'flip'?"),
        ("--precision fp8", "precision=fp8 is not valid; expected 'fp32' or 'fp16' or 'bf16'"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_valid(overrides: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_recipe("digits-2", overrides.split())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("metod: {class_path: PGDAT}", "'metod' is unknown; did you mean 'method'?"),
        ("threat: {epps: 8/255}", "threat.epps is unknown; did you mean 'eps'?"),
        ("method: {class_path: PGDAT, init_args: {stepz: 7}}", "method.stepz is unknown; did you mean 'steps'?"),
        ("data: {class_path: Digits}", "required: model"),
        ("data: {class_path: Digits", "recipe.yaml is no YAML: line 2, column 1: did not find expected ',' or '}'"),
        ("only words", "only words"),
    ],
)
def test_a_wrong_file_is_explained(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_gets_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'mnist-2'"):
        read_recipe("minst-2")
    with pytest.raises(ValueError, match=re.escape("no recipe file somewhere/else.yaml")):
        read_recipe("somewhere/else.yaml")


def test_none_is_null_in_options_and_files_alike() -> None:
    parser = Parser()
    parser.add_argument("--averaging", type=float | None, default=0.5)
    assert parser.parse_args(["--averaging", "none"]).averaging is None
    assert parser.parse_string("averaging: none").averaging is None
    assert parser.parse_args(["--averaging", "null"]).averaging is None


@pytest.mark.parametrize("text", ["8/255", "0.3", "1/255", "0.1234567"])
def test_pixels_survive_being_written_and_read(text: str) -> None:
    parser = Parser()
    parser.add_argument("--eps", type=Pixels)
    parsed = parser.parse_args(["--eps", text])
    assert parsed.eps == Pixels(text)
    written = parser.dump(parsed)
    assert str(yaml.safe_load(written)["eps"]) == text
    assert parser.parse_string(written).eps == Pixels(text)


def test_pixels_are_not_evaluated() -> None:
    parser = Parser()
    parser.add_argument("--eps", type=Pixels)
    for text in ("__import__('os').getcwd()", "2*3", "1/2/3"):
        with pytest.raises(ValueError, match="not a pixel distance"):
            parser.parse_args(["--eps", text])


def test_nearest_ignores_case() -> None:
    assert nearest("freeat", ["PGDAT", "FreeAT"]) == "did you mean 'FreeAT'?"
