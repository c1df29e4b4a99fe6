import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unipot.training.checkpoint import (
    LAST,
    PREVIOUS,
    keep_run_state,
    random_state,
    read_run_state,
    readable_run_state,
    replace_file,
    restore_random_state,
)
from unipot.training.sealed_file import is_sealed, seal

STATE = {"state_dict": {"w": torch.arange(300.0)}, "optimizer_states": [], "weight_average": {}, "random_state": {}, "origin": {}}


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_random_state_survives_a_safe_file(tmp_path):
    torch.save(random_state(), tmp_path / "state")
    expected = draw()
    restore_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == expected


def test_truncated_run_state_is_named(tmp_path):
    file = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.zeros(1000)}}, file)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match="last.ckpt: the run state is truncated or damaged"):
        read_run_state(file)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A run state as a run leaves it."""
    file = tmp_path_factory.mktemp("sealed") / "last.ckpt"
    torch.save({**STATE, "global_step": 3}, file)
    seal(file)
    return file


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_every_flipped_bit_and_every_lost_byte_is_found(sealed, data):
    content = bytearray(sealed.read_bytes())
    if data.draw(st.booleans()):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    damaged = sealed.with_name("damaged.ckpt")
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match="damaged.ckpt: the run state is truncated or damaged"):
        read_run_state(damaged)


def test_every_flipped_bit_of_the_seal_is_found(sealed):
    """One that turned a sealed file into one of before there were seals would let everything pass."""
    whole, damaged = sealed.read_bytes(), sealed.with_name("damaged.ckpt")
    for position in range(len(whole) - 100, len(whole)):
        for bit in range(8):
            damaged.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
            with pytest.raises(ValueError, match="damaged"):
                read_run_state(damaged)


def test_torch_reads_a_sealed_file_as_before(sealed):
    assert torch.load(sealed, weights_only=True)["global_step"] == 3


def test_state_of_an_earlier_version_has_no_seal_and_is_read(tmp_path):
    state = {key: value for key, value in STATE.items() if key != "origin"}
    torch.save({**state, "global_step": 4}, tmp_path / "last.ckpt")
    assert not is_sealed(tmp_path / "last.ckpt") and read_run_state(tmp_path / "last.ckpt")["global_step"] == 4


def test_flipped_bit_in_a_weight_of_an_earlier_version_is_found(tmp_path):
    state = {key: value for key, value in STATE.items() if key != "origin"}
    torch.save({**state, "global_step": 4}, tmp_path / "last.ckpt")
    content = (tmp_path / "last.ckpt").read_bytes()
    weights = STATE["state_dict"]["w"].numpy().tobytes()
    assert content.count(weights) == 1
    (tmp_path / "last.ckpt").write_bytes(content.replace(weights, weights[:500] + b"\x01" + weights[501:]))
    with pytest.raises(ValueError, match="last.ckpt: the run state is truncated or damaged"):
        read_run_state(tmp_path / "last.ckpt")


def test_seal_that_was_cut_off_is_missed(tmp_path):
    torch.save({**STATE, "global_step": 4}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="its checksum is gone"):
        read_run_state(tmp_path / "last.ckpt")


def save(folder, step):
    (folder / LAST.parent).mkdir(exist_ok=True)
    torch.save({**STATE, "global_step": step}, folder / LAST.with_suffix(".partial"))
    keep_run_state(folder / LAST.with_suffix(".partial"), folder)


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(file.read_bytes()[:-1]), Path.unlink], ids=["damaged", "gone"])
def test_newest_state_that_is_whole_is_found(tmp_path, damage):
    save(tmp_path, 5)
    save(tmp_path, 10)
    file, state, said = readable_run_state(tmp_path)
    assert (file, state["global_step"], said) == (tmp_path / LAST, 10, "")
    damage(tmp_path / LAST)
    file, state, _ = readable_run_state(tmp_path)
    assert (file, state["global_step"]) == (tmp_path / PREVIOUS, 5)


def test_foreign_checkpoint_is_named(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="not a run state of unipot"):
        read_run_state(tmp_path / "last.ckpt")


def test_absent_run_state_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run state to resume from"):
        read_run_state(tmp_path / "last.ckpt")


def test_replaced_file_has_the_new_content(tmp_path):
    (tmp_path / "old").write_text("old")
    (tmp_path / "new").write_text("new")
    replace_file(tmp_path / "new", tmp_path / "old")
    assert (tmp_path / "old").read_text() == "new" and not (tmp_path / "new").exists()
