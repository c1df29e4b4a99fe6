"""The upgrade mechanism, on synthetic steps; the real ones are tested on the artifacts in `tests/golden`."""

from __future__ import annotations

import pytest
import torch

from unipot.zoo import artifact_upgrade as upgrade


def renames(card, tensors):
    return {("theory" if key == "method" else key): value for key, value in card.items()}, tensors


def doubles(card, tensors):
    return card, {name: 2 * tensor for name, tensor in tensors.items()}


def test_steps_run_in_order_and_set_the_version():
    card, tensors = upgrade.upgraded(
        {"format_version": 1, "method": "PBE"}, {"w": torch.ones(1)}, target=3, steps={1: renames, 2: doubles}
    )
    assert card == {"format_version": 3, "theory": "PBE"} and tensors["w"].item() == 2


def test_arguments_stay_as_they_are():
    card, tensors = {"format_version": 1, "method": "PBE"}, {"w": torch.ones(1)}
    upgrade.upgraded(card, tensors, target=2, steps={1: renames})
    assert card == {"format_version": 1, "method": "PBE"} and tensors["w"].item() == 1


def test_present_format_passes_unchanged():
    card = {"format_version": upgrade.FORMAT_VERSION}
    assert upgrade.upgraded(card, {})[0] == card


def test_gap_in_the_steps_is_refused():
    with pytest.raises(ValueError, match="has format 1, and there is no upgrade from format 2"):
        upgrade.require_readable({"format_version": 1}, target=3, steps={1: renames})


@pytest.mark.parametrize("version", [None, "1", True])
def test_version_that_is_no_number_is_refused(version):
    with pytest.raises(ValueError, match="expected a whole number"):
        upgrade.require_readable({"format_version": version})


def test_two_steps_from_one_version_are_refused(monkeypatch):
    monkeypatch.setattr(upgrade, "UPGRADES", {1: renames})
    with pytest.raises(ValueError, match="there is an upgrade from artifact format 1 already"):
        upgrade.upgrades_from(1)(doubles)


def test_every_older_format_has_a_step():
    assert sorted(upgrade.UPGRADES) == list(range(1, upgrade.FORMAT_VERSION))
