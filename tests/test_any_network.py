"""Networks whose classes the worker cannot import: retrained, pruned, shared and measured from their .pt2 alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import squeezer
import squeezer.torch
from squeezer.recipe import parse_recipe

#: Run as a program of its own: its classes are gone when it ends.
TRAIN_AND_EXPORT = """
import sys
import numpy as np, torch
from sklearn.datasets import load_digits
import squeezer
import squeezer.torch

class Convolutions(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.BatchNorm2d(16)
        self.conv2, self.bn2 = torch.nn.Conv2d(16, 32, 3, 2, 1), torch.nn.BatchNorm2d(32)
        self.drop, self.fc = torch.nn.Dropout(0.1), torch.nn.Linear(512, 10)
    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x.unsqueeze(1))))
        return self.fc(self.drop(torch.relu(self.bn2(self.conv2(x))).flatten(1)))

class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = torch.nn.GRU(8, 48, num_layers=2, dropout=0.1, batch_first=True)
        self.fc = torch.nn.Linear(48, 10)
    def forward(self, x):
        return self.fc(self.gru(x)[0][:, -1])

class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place = torch.nn.Linear(8, 32), torch.nn.Parameter(torch.zeros(8, 32))
        layer = torch.nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.fc = torch.nn.Linear(32, 10)
    def forward(self, x):
        return self.fc(self.encoder(self.embed(x) + self.place).mean(1))

torch.manual_seed(0)
torch.set_num_threads(1)
network = {"cnn": Convolutions, "gru": Recurrent, "transformer": Attention}[sys.argv[1]]()
digits = load_digits()
x, y = (digits.images / 8 - 1).astype(np.float32), digits.target.astype(np.int64)
order = np.random.default_rng(0).permutation(len(x))
train, test = order[:1400], order[1400:]
np.savez("data.npz", x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])
optimizer = torch.optim.Adam(network.parameters(), 3e-3)
for epoch in range(12):
    for rows in torch.from_numpy(np.random.default_rng(epoch).permutation(train)).split(64):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(torch.from_numpy(x)[rows]), torch.from_numpy(y)[rows]).backward()
        optimizer.step()
squeezer.export(network, (torch.from_numpy(x[:2]),), "model.pt2")
"""
RECIPE = {
    "steps": [
        {"method": "gradual_prune", "sparsity": 0.9, "epochs": 15, "lr": 0.003, "batch_size": 64},
        {"method": "kmeans_share", "bits": 5},
        {"method": "finetune", "epochs": 2, "lr": 0.0003, "batch_size": 64},
    ]
}


@pytest.mark.parametrize("network", ["cnn", "gru", "transformer"])
def test_the_whole_of_deep_compression_from_a_pt2(tmp_path: Path, network: str) -> None:
    source, output = tmp_path / "input", tmp_path / "output"
    source.mkdir()
    output.mkdir()
    made = [sys.executable, "-c", TRAIN_AND_EXPORT, network]
    subprocess.run(made, cwd=source, check=True, timeout=200)
    (source / "model.pt2").rename(source / "model")
    (source / "data.npz").rename(source / "dataset")
    (source / "recipe.json").write_text(parse_recipe(RECIPE).model_dump_json())
    for command in ("compress", "verify"):
        child = [sys.executable, "-m", "squeezer.child", command, str(tmp_path)]
        with subprocess.Popen(child, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert json.loads(process.stdout.read().splitlines()[-1]) == {"event": "done"}

    report = json.loads((output / "report.json").read_text())
    evaluation = json.loads((output / "evaluation.json").read_text())
    assert evaluation["original"]["value"] > 0.93
    assert evaluation["drop"]["value"] < 0.05
    assert evaluation["rows"] == 397
    loaded = squeezer.load(output / "artifact.sqz")
    weights = [layer["name"] for layer in report["layers"] if layer["kind"] == "shared"]
    assert len(weights) >= 3
    for name in weights:
        assert np.mean(loaded[name] == 0) == pytest.approx(0.9, abs=0.02)
        assert len(np.unique(loaded[name])) <= 33

    module = squeezer.torch.load_module(output / "artifact.sqz")
    with np.load(source / "dataset") as data:
        logits = module(torch.from_numpy(data["x_test"]))
        accuracy = float((logits.argmax(1).numpy() == data["y_test"]).mean())
    assert accuracy == pytest.approx(evaluation["result"]["value"], abs=0.003)
