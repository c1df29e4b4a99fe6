import pytest
import torch

from unipot.training.ema import WeightAverage


@pytest.fixture
def module():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 2)


def test_average_follows_the_formula(module):
    average = WeightAverage(module, decay=0.5)
    start = module.weight.detach().clone()
    with torch.no_grad():
        module.weight += 1.0
    for _ in range(8):  # (1 + t) / (10 + t) reaches 0.5 at t = 8
        average.update()
    expected, shadow = module.weight.detach(), start
    for t in range(8):
        decay = (1 + t) / (10 + t)
        shadow = decay * shadow + (1 - decay) * expected
    torch.testing.assert_close(average.shadow["weight"], shadow)


def test_own_weights_come_back_bitwise(module):
    average = WeightAverage(module, decay=0.9)
    with torch.no_grad():
        module.weight.mul_(1.7)
    average.update()
    own, shadow = module.weight.detach().clone(), average.shadow["weight"].clone()
    with average.applied():
        assert torch.equal(module.weight, shadow)
        assert not torch.equal(module.weight, own)
    assert torch.equal(module.weight, own) and torch.equal(average.shadow["weight"], shadow)


def test_frozen_parameters_have_no_shadow(module):
    module.bias.requires_grad_(False)
    assert set(WeightAverage(module, decay=0.9).shadow) == {"weight"}


def test_shadow_of_half_precision_is_float32(module):
    assert WeightAverage(module.to(torch.bfloat16), decay=0.9).shadow["weight"].dtype == torch.float32


def test_state_survives_a_round_trip(module):
    average = WeightAverage(module, decay=0.9)
    with torch.no_grad():
        module.weight += 1
    average.update()
    other = WeightAverage(torch.nn.Linear(3, 2), decay=0.9)
    other.load_state_dict(average.state_dict())
    assert other.n_updates == 1
    assert all(torch.equal(other.shadow[name], average.shadow[name]) for name in average.shadow)


def test_state_of_other_parameters_is_refused(module):
    state = WeightAverage(torch.nn.Linear(3, 2, bias=False), decay=0.9).state_dict()
    with pytest.raises(ValueError, match="'bias'"):
        WeightAverage(module, decay=0.9).load_state_dict(state)
