"""What a command reads of a run, it reads once."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.calls import EVALUATE, TRAIN
from tests.processes import begin

# A process of its own, as who listens to what is opened does so for good.
PROGRAM = """
import json
import sys
from pathlib import Path
from benchmarks.calls import reads_of
from protoat.cli import main
run, found = sys.argv[1], []
for args in json.loads(sys.argv[2]):
    with reads_of(Path(run)) as reads:
        assert main([run if word == "RUN" else word for word in args]) == 0
    found.append(reads)
print(json.dumps(found))
"""


def test_weights_and_recipe_are_read_once_to_measure_a_run(tmp_path: Path) -> None:
    commands = json.dumps([TRAIN, EVALUATE, (*EVALUATE, "--weights", "last")])
    program, log = tmp_path / "program.py", tmp_path / "log"
    program.write_text(PROGRAM)
    process = begin(program, tmp_path / "run", commands, log=log)
    process.join()
    assert process.exitcode == 0, log.read_text()
    trained, *measured = json.loads(log.read_text().splitlines()[-1])
    assert trained.get("recipe.yaml", 0) <= 1
    for reads in measured:
        assert reads["recipe.yaml"] == 1
        assert reads.get("best.safetensors", 0) + reads.get("last.safetensors", 0) == 1
        assert reads["metrics.jsonl"] == reads["run.json"] == 1
