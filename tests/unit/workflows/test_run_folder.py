"""Which configurations may continue a run."""

import pytest

from unipot.workflows.runs.run_folder import _refuse_changes
from unipot.workflows.settings.compose import RESOLVED_CONFIG, load_config, to_yaml
from unipot.workflows.settings.schema import PretrainConfig

WORDS = ["run=runs/a", "datasets.a.path=a.extxyz", "datasets.a.level_of_theory=PBE"]


def test_run_from_before_an_option_existed_is_continued(tmp_path):
    config = load_config("pretrain", PretrainConfig, WORDS)
    old = to_yaml(config)
    for line in ("  references: {}\n", "    energy_kind: null\n", "  frozen_atoms: exclude\n"):
        assert line in old
        old = old.replace(line, "")
    (tmp_path / RESOLVED_CONFIG).write_text(old)
    _refuse_changes(tmp_path, config)


def test_option_of_later_with_another_value_is_another_run(tmp_path):
    config = load_config("pretrain", PretrainConfig, [*WORDS, "loss.frozen_atoms=include"])
    (tmp_path / RESOLVED_CONFIG).write_text(to_yaml(config).replace("  frozen_atoms: include\n", ""))
    with pytest.raises(ValueError, match="was started with loss.frozen_atoms=exclude, now it is include"):
        _refuse_changes(tmp_path, config)


def test_other_references_are_another_run(tmp_path):
    (tmp_path / RESOLVED_CONFIG).write_text(to_yaml(load_config("pretrain", PretrainConfig, WORDS)))
    changed = load_config("pretrain", PretrainConfig, [*WORDS, "heads.references.a.mode=none"])
    with pytest.raises(ValueError, match="was started with heads.references.a.mode=None, now it is none"):
        _refuse_changes(tmp_path, changed)
