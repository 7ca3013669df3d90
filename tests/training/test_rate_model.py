from fractions import Fraction

import numpy as np
import pytest
import torch

from squeezer.artifact.writer import encode_tensor
from squeezer.representations import Uniform
from squeezer.training.rate_model import RateModel


def lengths_by_hand(counts: dict[int, float], most: int) -> list[float]:
    """-log2 of smoothed shares, of k and -k the same, and never falling with the magnitude."""
    smooth = [(counts.get(k, 0) + counts.get(-k, 0)) / 2 + 0.5 * 0.7**k for k in range(most + 1)]
    total = smooth[0] + 2 * sum(smooth[1:])
    found: list[float] = []
    for value in smooth:
        found.append(max([-np.log2(value / total), *found[-1:]]))
    return found[:0:-1] + found


def test_lengths_are_those_of_smoothed_shares():
    model = RateModel(3, "cpu")
    model.update(torch.tensor([[0.0, 0.0, 0.0, 1.0], [-1.0, 3.0, 0.0, 3.0]]))
    assert model.lengths.tolist() == pytest.approx(lengths_by_hand({0: 4, 1: 1, -1: 1, 3: 2}, 3))
    # code 2 does not occur, and is dearer than 3, which must then cost as much
    assert model.lengths[5] == model.lengths[6] > model.lengths[4]
    expected = 4 * model.lengths[3] + 2 * model.lengths[2] + 2 * model.lengths[6]
    assert model.bits.item() == pytest.approx(expected.item())


def test_counts_are_averaged_over_updates():
    model, codes = RateModel(1, "cpu"), [torch.zeros(100), torch.ones(100)]
    for one in codes:
        model.update(one)
    assert model.counts.tolist() == pytest.approx([0, 90, 10])
    # so that a table cannot be made for the codes of this moment
    assert model.bits.item() > 300


def test_between_codes_the_length_is_what_noise_makes_of_it():
    model = RateModel(4, "cpu")
    model.update(torch.from_numpy(np.random.default_rng(0).integers(-3, 4, 1000)))
    noise = (torch.arange(20000) + 0.5) / 20000 - 0.5
    for position in (0.3, -1.75, 2.0, 3.5):
        rounded = torch.round(position + noise).to(torch.int64)
        expected = model.lengths[rounded + 4].mean().item()
        assert model.price(torch.tensor([position])).item() == pytest.approx(expected, rel=1e-3)


def test_gradients_are_the_slopes_and_stop_at_the_end():
    model = RateModel(2, "cpu")
    model.update(torch.tensor([0.0, 0, 0, 0, 1, -1, 2]))
    at = torch.tensor([-2.5, -1.5, -0.25, 0.25, 1.0, 2.0, 7.0], requires_grad=True)
    (3 * model.price(at)).backward()
    zero, one, two = model.lengths[2:].tolist()
    expected = [0, -3 * (two - one), -3 * (one - zero), 3 * (one - zero), 3 * (two - one), 3 * (two - one), 0]
    assert at.grad.tolist() == pytest.approx(expected, abs=1e-5)
    assert model.price(torch.tensor([7.0, -9.0])).item() == pytest.approx(2 * two)


def test_it_knows_what_a_coder_without_contexts_takes():
    """Laplacian codes without structure: within two per cent of rANS and, which no coder can beat, of their entropy."""
    codes = np.rint(np.random.default_rng(0).laplace(0, 0.6, (300, 400))).astype(np.int8)
    model = RateModel(127, "cpu")
    model.update(torch.from_numpy(codes))
    coded = 8 * len(encode_tensor(Uniform(np.float32(1), codes, np.dtype(np.float32)), "rans").data)
    assert model.bits.item() == pytest.approx(coded, rel=0.02)
    shares = [Fraction(int(n), codes.size) for n in np.unique(codes, return_counts=True)[1]]
    entropy = -codes.size * sum(float(p) * np.log2(float(p)) for p in shares)
    assert entropy < model.bits.item() < 1.02 * entropy
