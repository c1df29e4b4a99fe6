import random

import numpy as np
import pytest
import torch

from unipot.training.checkpoint import random_state, read_run_state, replace_file, restore_random_state


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
