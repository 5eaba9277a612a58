"""Adam over one vector takes the steps torch's own takes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ml.adam import Adam


@pytest.mark.parametrize(("weight_decay", "norm"), [(0.0, float("inf")), (0.01, 0.5)])
def test_its_steps_are_torchs(weight_decay: float, norm: float) -> None:
    torch.manual_seed(1)
    ours = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)).double()
    theirs = copy.deepcopy(ours)
    own = Adam(ours.parameters(), 0.01, weight_decay=weight_decay, norm=norm)
    other = torch.optim.Adam(theirs.parameters(), lr=0.01, weight_decay=weight_decay)
    for step in range(20):
        x = 30 * torch.randn(8, 5, dtype=torch.double)
        own.clear()
        ours(x).square().mean().backward()
        own.rate = other.param_groups[0]["lr"] = 0.01 / (1 + step)
        own.step()
        other.zero_grad()
        theirs(x).square().mean().backward()
        if norm < float("inf"):
            nn.utils.clip_grad_norm_(theirs.parameters(), norm)
        other.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_what_is_loaded_into_the_network_is_what_it_moves() -> None:
    network = nn.Linear(3, 1)
    own = Adam(network.parameters(), 0.1)
    network.load_state_dict({"weight": torch.full((1, 3), 2.0), "bias": torch.ones(1)})
    assert own.values.tolist() == [2.0, 2.0, 2.0, 1.0]
    own.clear()
    network(torch.ones(1, 3)).sum().backward()
    own.step()
    assert network.weight.detach().ravel().tolist() == pytest.approx([1.9] * 3)


def test_a_restored_state_goes_on_bit_for_bit() -> None:
    torch.manual_seed(2)
    network = nn.Linear(4, 1)
    own = Adam(network.parameters(), 0.1)

    def step(of: Adam, by: nn.Module) -> None:
        of.clear()
        by(torch.arange(4.0)).sum().square().backward()
        of.step()

    step(own, network)
    again = nn.Linear(4, 1)
    other = Adam(again.parameters(), 0.1)
    again.load_state_dict(network.state_dict())
    other.restore({name: value.clone() for name, value in own.state().items()})
    for _ in range(3):
        step(own, network)
        step(other, again)
    assert torch.equal(own.values, other.values)
