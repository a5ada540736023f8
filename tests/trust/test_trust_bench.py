"""The benchmark's command line and reports."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from bench.trust import fuzz
from bench.trust.__main__ import main
from bench.trust.fuzz_pictures import PictureFindings
from bench.trust.fuzz_requests import RequestFindings


def test_a_part_and_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:

    findings = RequestFindings(statuses=Counter(OK=6, INTERNAL=1), defects=["seed 4: INTERNAL"])
    monkeypatch.setattr(fuzz, "fuzz_pictures", lambda *_, **__: PictureFindings(taken=5))
    monkeypatch.setattr(fuzz, "fuzz_requests", lambda *_, **__: findings)
    assert main(["fuzz", "--requests", "7", "--pictures", "5", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "of 5 mutated pictures: defects | <= 0 | 0 | PASS" in printed
    assert "of 7 fuzzed requests: INTERNAL, UNKNOWN and the like | <= 0 | 1 | missed" in printed
    facts = json.loads((tmp_path / "parts" / "fuzz-requests.json").read_text())["facts"]
    assert facts["defects"] == ["seed 4: INTERNAL"]
    assert facts["statuses"] == {"OK": 6, "INTERNAL": 1}


def test_an_unknown_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nonsense"])
    assert "no part nonsense" in capsys.readouterr().err
