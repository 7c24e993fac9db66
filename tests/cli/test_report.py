from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from protoat.cli import main
from tests.whole import edit


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A folder with a measurement of four images."""
    counts = {"correct": 3, "total": 4}
    entry = {**counts, "per_class": {"cat": counts}, "per_mode": {"tabby": counts}, "seconds": 0.1, "outcomes": "1110"}
    record = {
        "subject": {
            "weights": "net.safetensors",
            "sha256": "0",
            "data": "Cats test",
            "data_sha256": "0",
            "threat": {"norm": "linf", "eps": 8 / 255},
            "images": 4,
        },
        "attacks": {"clean": {**entry, "parameters": {"attack": None}}},
        "worst_case": {**entry, "parameters": {"attack": "worst case", "attacks": ["clean"]}},
        "lint": [],
    }
    (tmp_path / "cats").mkdir()
    edit(tmp_path / "cats" / "evaluation.json", json.dumps(record))
    return tmp_path / "cats"


def test_report_is_written_where_out_says(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(measured)]) == 0
    assert capsys.readouterr().out.startswith("report.html: ")
    assert main(["report", str(measured), "--out", "pages/cats.html"]) == 0
    for page in (tmp_path / "report.html", tmp_path / "pages" / "cats.html"):
        text = page.read_text()
        assert "linf 0.03137 (8/255)" in text and "75.0 %" in text


def test_mistakes_are_one_line(measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args, message in (
        ([str(tmp_path / "nowhere")], "holds nothing to report"),
        ([str(measured), str(measured)], "none of them twice"),
        ([str(measured), "--images", "-1"], "images=-1 must be 0 or more"),
    ):
        assert main(["report", *args, "--out", str(tmp_path / "page.html")]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "page.html").exists()
    assert main(["report", str(measured), "--out", str(tmp_path / "page.pdf")]) == 2
    assert "page.pdf has to end in .html" in capsys.readouterr().err
    assert not (tmp_path / "page.pdf").exists()


def test_help_needs_none_of_the_libraries_that_draw() -> None:
    code = (
        "import sys; from protoat.cli import main\n"
        "try: main(['report', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'matplotlib', 'torch', 'jinja2', 'openTSNE'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "--images" in found.stdout and found.stdout.endswith("[]\n")
