from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

import squeezer
from benchmarks import chaos
from benchmarks.chaos_clients import Sent, model


def test_a_short_run_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert chaos.main(["--jobs", "4", "--kills", "2", "--json", "--check"]) == 0
    document = json.loads(capsys.readouterr().out)
    counts = {row["what"]: row["count"] for row in document["rows"]}
    assert (counts["succeeded"], counts["kills"], counts["left over"]) == (4, 2, 0)
    assert all(goal["met"] for goal in document["goals"])


def test_negative_control_the_artifact_of_another_job_is_not_taken_for_right(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.safetensors" for number in range(2)]
    for number, file in enumerate(files):
        save_file({"weight": model(number)}, file)
        squeezer.compress(file, "lossless")
    sent = Sent("an id", 0, tries=1)
    assert [sent.decodes(file.with_suffix(".sqz").read_bytes()) for file in files] == [True, False]
