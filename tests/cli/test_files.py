from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import squeezer as library
from tests.cli.conftest import EXECUTABLE, Start, squeezer

REPORT_KEYS = {"headline", "input_bytes", "tensor_bytes", "output_bytes", "ratio", "seconds", "layers", "ledger"}


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_compress_json_is_one_document_and_nothing_else(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.sqz"
    done = squeezer("compress", model, "-o", out, "--recipe", "safe", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert report.keys() >= REPORT_KEYS
    assert report["input_bytes"] == model.stat().st_size
    assert report["output_bytes"] == out.stat().st_size == sum(report["ledger"].values())
    assert report["tensor_bytes"] == sum(array.nbytes for array in load_file(model).values())
    assert report["ratio"] == report["tensor_bytes"] / report["output_bytes"]
    assert "encode" in done.stderr  # where standard error is no terminal, progress is plain lines
    assert "\x1b" not in done.stderr
    assert library.load(out).keys() == load_file(model).keys()


def test_the_headline_is_the_first_line(model: Path, tmp_path: Path) -> None:
    done = squeezer("compress", model, "-o", tmp_path / "out.sqz", "--recipe", "deep-compression")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Accuracy was not measured and is likely lost")
    assert "times smaller" in done.stdout
    assert any(line.startswith("left out") for line in lines)
    assert any("finetune: it needs" in line for line in lines)
    assert "[red]fc2:smile:.weight" in done.stdout  # names are no markup


def test_output_has_the_name_of_the_model_by_default(model: Path, tmp_path: Path) -> None:
    assert squeezer("compress", model.name, cwd=tmp_path).returncode == 0
    assert names_in(tmp_path) == {"model.safetensors", "model.sqz"}


def test_recipe_file_and_its_other_outputs(model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"preset": "lossless", "outputs": ["sqz", "safetensors"]}))
    out = tmp_path / "there" / "copy.sqz"
    out.parent.mkdir()
    assert squeezer("compress", model, "-o", out, "--recipe", recipe).returncode == 0
    assert names_in(out.parent) == {"copy.sqz", "copy.safetensors"}
    ours, theirs = load_file(out.parent / "copy.safetensors"), load_file(model)
    assert {name: array.tobytes() for name, array in ours.items()} == {
        name: array.tobytes() for name, array in theirs.items()
    }


def test_a_preset_goes_before_a_file_of_its_name(model: Path, tmp_path: Path) -> None:
    (tmp_path / "safe").write_text('{"preset": "lossless"}')
    for recipe in ("safe", "./safe"):
        done = squeezer("compress", model, "-o", "out.sqz", "-r", recipe, "--json", cwd=tmp_path)
        assert json.loads(done.stdout)["preset"] == ("safe" if recipe == "safe" else "lossless")


def test_another_output_never_replaces_the_model(model: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"preset": "safe", "outputs": ["sqz", "safetensors"]}))
    before = model.read_bytes()
    done = squeezer("compress", model, "-o", model.with_suffix(".sqz"), "--recipe", recipe)
    assert done.returncode == 1
    assert "is what is being read" in done.stderr
    assert model.read_bytes() == before


def test_threads_do_not_change_the_file(model: Path, tmp_path: Path) -> None:
    for threads in (1, 3):
        out = tmp_path / f"{threads}.sqz"
        assert squeezer("compress", model, "-o", out, "--threads", threads).returncode == 0
    assert (tmp_path / "1.sqz").read_bytes() == (tmp_path / "3.sqz").read_bytes()


def test_output_is_replaced_on_success_and_kept_on_failure(model: Path, sick_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.sqz"
    out.write_bytes(b"old")
    done = squeezer("compress", sick_model, "-o", out)
    assert (done.returncode, out.read_bytes()) == (1, b"old")
    assert done.stderr.endswith("(non_finite_weights)\n")
    assert squeezer("compress", model, "-o", out).returncode == 0
    assert library.load(out).keys() == load_file(model).keys()
    assert names_in(tmp_path) == {"model.safetensors", "sick.safetensors", "out.sqz"}


BAD_CALLS = {
    "no model": (["compress", "nope.pt"], "file_not_found", "nope.pt"),
    "not a model": (["compress", "bad.json", "-o", "x.sqz"], "unknown_format", "text"),
    "onto itself": (["compress", "model.safetensors", "-o", "model.safetensors"], "file_error", "being read"),
    "no folder": (["compress", "model.safetensors", "-o", "no/x.sqz"], "file_error", "no such folder"),
    "a folder": (["compress", "model.safetensors", "-o", "."], "file_error", "is a folder"),
    "unwritable": (["compress", "model.safetensors", "-o", "/proc/x.sqz"], "file_not_found", "/proc"),
    "preset": (
        ["compress", "model.safetensors", "-r", "saef"],
        "invalid_recipe",
        "deep-compression, distill, lossless, safe",
    ),
    "recipe file": (["compress", "model.safetensors", "-r", "no.json"], "file_not_found", "no.json"),
    "recipe syntax": (["compress", "model.safetensors", "-r", "bad.json"], "invalid_recipe", "line 2, column 1"),
    "recipe list": (["compress", "model.safetensors", "-r", "list.json"], "invalid_recipe", "not list"),
    "inspect": (["inspect", "model.safetensors"], "not_an_artifact", "not a .sqz"),
    "verify": (["verify", "nope.sqz"], "file_not_found", "nope.sqz"),
    "decompress": (["decompress", "bad.json", "-o", "x.safetensors"], "not_an_artifact", "not a .sqz"),
    "method": (["methods", "prune"], "invalid_recipe", "magnitude_prune"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_errors_are_one_line_and_one_document_and_leave_nothing(case: str, model: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"steps": [\n}')
    (tmp_path / "list.json").write_text("[]")
    before = {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)}
    arguments, code, words = BAD_CALLS[case]
    done = squeezer(*arguments, "--json", cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert done.returncode == 1
    assert words in error["detail"]
    assert error["code"] == code
    assert done.stderr.splitlines()[-1] == f"error: {error['detail']} ({code})"
    assert done.stderr.count("error: ") == 1
    assert "Traceback" not in done.stderr
    assert {name: (tmp_path / name).read_bytes() for name in names_in(tmp_path)} == before


def test_without_json_an_error_leaves_standard_output_empty() -> None:
    done = squeezer("compress", "nope.pt")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: nope.pt: there is no such file or folder (file_not_found)\n"


@pytest.mark.parametrize("arguments", [["compress"], ["nonsense"], ["compress", "m", "--threads", "0"]])
def test_usage_errors_exit_2(arguments: list[str]) -> None:
    done = squeezer(*arguments, "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["error"]["code"] == "usage"
    assert done.stderr


def test_version() -> None:
    assert squeezer("--version").stdout == f"squeezer {library.__version__}\n"


@pytest.fixture
def artifact(model: Path, tmp_path: Path) -> Path:
    out = tmp_path / "model.sqz"
    library.compress(model, "safe", out)
    return out


def test_inspect(artifact: Path) -> None:
    contents = json.loads(squeezer("inspect", artifact, "--json").stdout)
    assert sum(contents["ledger"].values()) == contents["size"] == artifact.stat().st_size
    shown = {tensor["name"]: (tensor["shape"], tensor["dtype"]) for tensor in contents["tensors"]}
    assert shown["fc1.weight"] == ([64, 48], "F32")
    assert shown["steps"] == ([], "I64")
    text = squeezer("inspect", artifact).stdout
    assert all(name in text for name in shown)
    assert f"{contents['size']:,} bytes" in text


def test_verify_finds_a_flipped_bit(artifact: Path) -> None:
    assert squeezer("verify", artifact).stdout.startswith("intact: ")
    damaged = bytearray(artifact.read_bytes())
    damaged[len(damaged) // 3] ^= 4
    artifact.write_bytes(damaged)
    done = squeezer("verify", artifact)
    assert done.returncode == 1
    assert "tensor 'fc1.weight'" in done.stderr
    assert done.stderr.endswith("(corrupt_artifact)\n")


def test_decompress_to_a_file_and_to_a_folder(artifact: Path, tmp_path: Path) -> None:
    expected = {name: array.tobytes() for name, array in library.load(artifact).items()}
    assert squeezer("decompress", artifact, "-o", tmp_path / "back.safetensors").returncode == 0
    done = squeezer("decompress", artifact, "-o", tmp_path / "back", "--json")
    assert list(json.loads(done.stdout)["files"]) == [str(tmp_path / "back" / "model.safetensors")]
    for path in (tmp_path / "back.safetensors", tmp_path / "back" / "model.safetensors"):
        assert {name: array.tobytes() for name, array in load_file(path).items()} == expected


def test_a_hugging_face_folder_comes_back_with_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    folder.mkdir()
    save_file({"w": np.ones((4, 4), np.float32)}, folder / "model.safetensors")
    (folder / "config.json").write_text('{"hidden_size": 4}')
    done = squeezer("compress", folder, "--recipe", "lossless")
    assert done.returncode == 0, done.stderr
    assert "config.json, 18 bytes" in done.stdout
    assert squeezer("decompress", tmp_path / "bert.sqz", "-o", tmp_path / "back").returncode == 0
    assert (tmp_path / "back" / "config.json").read_text() == '{"hidden_size": 4}'


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_partial_file(
    start: Start, number: signal.Signals, status: int, large_model: Path, tmp_path: Path
) -> None:
    options = ["--recipe", "lossless", "--threads", "1", "--json"]  # no step surveys the tensors first
    process = start("compress", large_model, "-o", tmp_path / "out.sqz", *options)
    assert process.stderr
    assert "encode" in process.stderr.readline()
    assert len(names_in(tmp_path)) == 1  # the negative control: it has begun to write
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in stderr
    assert names_in(tmp_path) == set()
    if number == signal.SIGINT:
        assert json.loads(stdout)["error"]["code"] == "interrupted"


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_a_reader_that_leaves_is_no_error_to_show(as_json: bool, artifact: Path) -> None:
    command = "import os, sys; r, w = os.pipe(); os.close(r); os.dup2(w, 1); os.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", command, EXECUTABLE, "inspect", artifact, *(["--json"] if as_json else [])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
