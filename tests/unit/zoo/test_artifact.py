"""Artifacts: what is saved comes back to the last bit, and nothing damaged is loaded."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.unit.zoo.artifact_cases import CRYSTAL, FORMS, WATER, rewrite, weights_of
from unipot.batch import collate
from unipot.models import CoreRepulsion
from unipot.zoo import ArtifactError, describe_artifact, load_artifact, load_potential, read_card, save_artifact
from unipot.zoo.artifact import tensor_hash
from unipot.zoo.golden import largest_deviation


def test_weights_come_back_bitwise(saved):
    path, potential = saved
    loaded = load_potential(path).state_dict()
    assert loaded.keys() == potential.state_dict().keys()
    assert all(torch.equal(loaded[k], v) and loaded[k].dtype == v.dtype for k, v in potential.state_dict().items())


def test_predictions_come_back_bitwise(saved):
    path, potential = saved
    batch = collate([WATER, CRYSTAL], cutoff=potential.cutoff, head_index=[0, 1], dtype=torch.float64)
    properties = ("energy", "forces", "stress")
    before, after = potential(batch, properties), load_potential(path)(batch, properties)
    assert all(torch.equal(before[name], after[name]) for name in properties)


def test_heads_keep_their_order_and_levels_of_theory(saved):
    path, _ = saved
    potential = load_potential(path)
    assert [(n, potential.heads[n].level_of_theory) for n in potential.head_names] == [("a", "level 0"), ("b-2", "level 1")]


def test_card_states_heads_elements_units_and_data(saved):
    card = load_artifact(saved[0]).card
    assert card["heads"]["b-2"] == {"level_of_theory": "level 1", "energy_kind": "total", "elements": ["H", "C", "N", "O", "Al", "Cu"]}
    assert card["units"]["stress"]["unit"] == "eV/A^3"
    assert card["licence"] == "CC-BY-4.0" and card["datasets"][0]["licence"] == "CC0-1.0"


def test_card_holds_golden_values_of_every_head(saved):
    golden = read_card(saved[0])["golden"]
    assert [(g["id"], g["head"], "stress" in g) for g in golden] == [
        ("water", "a", False),
        ("crystal", "a", True),
        ("golden-close", "a", False),
        ("water", "b-2", False),
        ("crystal", "b-2", True),
        ("golden-close", "b-2", False),
    ]


def test_golden_values_have_atoms_as_close_as_no_data_have_them(tmp_path, make_potential):
    potential = make_potential()
    potential.core_repulsion = CoreRepulsion(closest={"H-C": 0.6})
    (close,) = [g for g in read_card(save_artifact(tmp_path / "m", potential))["golden"] if g["id"] == "golden-close"]
    numbers, positions = close["atomic_numbers"], np.array(close["positions"])
    distances = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    assert numbers == [1, 6, 7] and distances[0] == pytest.approx(0.4 * 0.6)
    assert distances[1] == pytest.approx(0.8 * 0.65 * (0.76 + 0.71), abs=0.01) and np.abs(close["forces"]).max() > 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reach", [0.6, 0.3, None])
def test_another_core_repulsion_is_refused_whatever_the_checksums_say(tmp_path, make_potential, reach, dtype):
    """As by a unipot that computes another one from the same card."""
    potential = make_potential()
    potential.core_repulsion = CoreRepulsion(0.65)
    path = save_artifact(tmp_path / "m", potential, golden=[WATER])
    card = read_card(path)
    card["potential"]["core_repulsion"] = None if reach is None else {"reach": reach}
    rewrite(path, card=card)
    with pytest.raises(ArtifactError, match="of structure 'golden-close' through head 'only' deviates by"):
        load_artifact(path, dtype=dtype)


def test_a_prediction_that_is_no_number_is_the_largest_deviation(saved):
    """Whatever comes behind it in the list."""
    path, potential = saved
    golden = read_card(path)["golden"]
    golden[0]["energy"] = float("nan")
    deviation, where = largest_deviation(potential, golden)
    assert np.isnan(deviation) and where == "energy of structure 'water' through head 'a'"


def test_golden_structures_are_made_when_none_are_given(tmp_path, make_potential):
    path = save_artifact(tmp_path / "m.safetensors", make_potential())
    assert [g["id"] for g in read_card(path)["golden"]] == ["golden-molecule", "golden-crystal", "golden-close"]


def test_hash_is_the_same_in_both_forms(tmp_path, make_potential):
    potential = make_potential()
    cards = [read_card(save_artifact(tmp_path / form, potential)) for form in FORMS]
    assert cards[0]["sha256"] == cards[1]["sha256"] == tensor_hash(potential.state_dict())


def test_float32_model_loads_as_float64_and_back(tmp_path, make_potential):
    path = save_artifact(tmp_path / "m.safetensors", make_potential(dtype=torch.float32))
    assert load_potential(path).dtype == torch.float32
    assert load_potential(path, dtype=torch.float64).dtype == torch.float64


def test_loading_leaves_the_random_stream_alone(saved):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_potential(saved[0])
    assert torch.equal(torch.rand(3), expected)


def test_saving_leaves_the_model_alone(tmp_path, make_potential):
    potential = make_potential(dtype=torch.float32).train()
    save_artifact(tmp_path / "m.safetensors", potential)
    assert potential.training and potential.dtype == torch.float32


def test_saving_again_replaces_the_model(saved, make_potential):
    path, _ = saved
    save_artifact(path, make_potential(heads=("new",), seed=3))
    assert load_potential(path).head_names == ("new",)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_failed_save_keeps_the_old_model_and_leaves_nothing_else(saved, make_potential):
    path, potential = saved
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        save_artifact(path, make_potential(), card={"thing": object()})
    assert load_potential(path).head_names == potential.head_names
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_interrupted_write_leaves_no_file(tmp_path, make_potential, monkeypatch):
    def broken(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        save_artifact(tmp_path / "m", make_potential())
    assert list(tmp_path.iterdir()) == []


def test_foreign_folder_is_not_overwritten(tmp_path, make_potential):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("x")
    with pytest.raises(ValueError, match="is not a model folder"):
        save_artifact(tmp_path / "thesis", make_potential())


def test_reserved_card_key_is_refused(tmp_path, make_potential):
    with pytest.raises(ValueError, match="sha256 are written by unipot itself"):
        save_artifact(tmp_path / "m", make_potential(), card={"sha256": "0"})


def test_non_finite_weight_is_not_saved(tmp_path, make_potential):
    potential = make_potential()
    with torch.no_grad():
        next(potential.backbone.parameters())[0] = float("nan")
    with pytest.raises(ValueError, match="are not finite"):
        save_artifact(tmp_path / "m", potential)


def test_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors is not there"):
        load_potential(tmp_path / "nowhere.safetensors")


def test_run_folder_is_refused_with_the_model_inside(tmp_path, make_potential):
    save_artifact(tmp_path / "run" / "best.safetensors", make_potential())
    with pytest.raises(FileNotFoundError, match=r"did you mean .*best\.safetensors"):
        load_potential(tmp_path / "run")


def test_run_state_is_refused_with_a_hint(tmp_path):
    (tmp_path / "last.ckpt").write_bytes(b"PK")
    with pytest.raises(ArtifactError, match=r"the model is best\.safetensors in the run folder"):
        load_potential(tmp_path / "last.ckpt")


@pytest.mark.parametrize("keep", [0, 4, 200, -10])
def test_truncated_file_is_refused(saved, keep):
    path, _ = saved
    content = weights_of(path).read_bytes()
    weights_of(path).write_bytes(content[:keep])
    with pytest.raises(ArtifactError, match="truncated or not a safetensors file"):
        load_potential(path)


def test_flipped_bit_is_refused(saved):
    path, _ = saved
    content = bytearray(weights_of(path).read_bytes())
    content[-1] ^= 1
    weights_of(path).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"SHA-256 .* the card states"):
        load_potential(path)


def test_newer_format_is_refused(saved):
    path, _ = saved
    rewrite(path, card={**read_card(path), "format_version": 99})
    with pytest.raises(ArtifactError, match="has format 99, this unipot reads formats up to 3; upgrade unipot"):
        load_potential(path)


def test_unknown_older_format_is_refused(saved):
    path, _ = saved
    rewrite(path, card={**read_card(path), "format_version": 0})
    with pytest.raises(ArtifactError, match="has format 0, and there is no upgrade from format 0"):
        load_potential(path)


def test_missing_weight_is_refused(saved):
    path, _ = saved
    tensors = load_file(weights_of(path))
    tensors.pop("heads.heads.a.scale")
    rewrite(path, tensors=tensors, card={**read_card(path), "sha256": tensor_hash(tensors)})
    with pytest.raises(ArtifactError, match=r"1 missing \(first 'heads\.heads\.a\.scale'\)"):
        load_potential(path)


def test_weight_of_another_shape_is_refused(saved):
    path, _ = saved
    tensors = load_file(weights_of(path))
    tensors["heads.heads.a.readout.output.weight"] = torch.zeros(1, 3, dtype=torch.float64)
    rewrite(path, tensors=tensors, card={**read_card(path), "sha256": tensor_hash(tensors)})
    with pytest.raises(ArtifactError, match=r"'heads\.heads\.a\.readout\.output\.weight' is torch\.float64 \(1, 3\)"):
        load_potential(path)


@pytest.mark.parametrize("key", ["energy", "forces", "stress"])
def test_model_that_computes_something_else_is_refused(saved, key):
    path, _ = saved
    card = read_card(path)
    card["golden"][1][key] = (np.asarray(card["golden"][1][key]) + 1e-3).tolist()
    rewrite(path, card=card)
    with pytest.raises(ArtifactError, match=rf"golden values: {key} of structure 'crystal' through head 'a' deviates by"):
        load_potential(path)


def test_card_without_golden_values_is_refused(saved):
    path, _ = saved
    rewrite(path, card={**read_card(path), "golden": []})
    with pytest.raises(ArtifactError, match="no golden values"):
        load_potential(path)


def test_unknown_backbone_is_refused(saved):
    path, _ = saved
    card = read_card(path)
    card["potential"]["backbone"]["name"] = "nativ"
    rewrite(path, card=card)
    with pytest.raises(ArtifactError, match="backbone 'nativ' is not known"):
        load_potential(path)


def test_safetensors_of_another_program_is_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ArtifactError, match="no unipot card"):
        load_potential(tmp_path / "other.safetensors")


def test_damaged_card_is_refused(tmp_path, make_potential):
    path = save_artifact(tmp_path / "m", make_potential())
    (path / "card.json").write_text('{"format": ')
    with pytest.raises(ArtifactError, match="not valid JSON"):
        load_potential(path)


def test_folder_without_card_is_refused(tmp_path, make_potential):
    path = save_artifact(tmp_path / "m", make_potential())
    (path / "card.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"folder without card\.json"):
        load_potential(path)


def test_model_works_after_being_moved(saved, tmp_path):
    path, _ = saved
    shutil.move(path, tmp_path / f"moved-{path.name}")
    assert load_potential(tmp_path / f"moved-{path.name}").head_names == ("a", "b-2")


def test_file_is_plain_safetensors(tmp_path, make_potential):
    path = save_artifact(tmp_path / "m.safetensors", make_potential())
    with safe_open(path, framework="np") as file:
        assert set(file.metadata()) == {"unipot_card"}


def test_model_is_as_readable_as_any_new_file(saved):
    path, _ = saved
    ordinary = path.parent / "ordinary"
    ordinary.touch()
    assert weights_of(path).stat().st_mode == ordinary.stat().st_mode


def test_description_shows_heads_and_licence_without_reading_weights(saved):
    path, _ = saved
    console = Console(file=io.StringIO(), width=100)
    console.print(describe_artifact(path))
    shown = console.file.getvalue()
    assert "level 1" in shown and "CC-BY-4.0" in shown and "H C N O Al Cu" in shown


STRANGE = "[/bold][link=https://x.org]a[red]b[/nothing] \x1b[31m\x07 \ud800 é"


def test_texts_of_a_stranger_are_shown_as_they_are(make_potential, tmp_path):
    """Markup is no markup, and nothing steers the terminal."""
    potential = make_potential(heads=("a",))
    potential.heads["a"].level_of_theory = STRANGE
    dataset = {"name": STRANGE, "head": STRANGE, "labels": [STRANGE], "licence": STRANGE}
    card = {"name": STRANGE, "licence": STRANGE, "datasets": [dataset], STRANGE: STRANGE, "references": {"a": {"mode": STRANGE}}}
    path = save_artifact(tmp_path / "m.safetensors", potential, card=card)
    console = Console(file=io.StringIO(), width=600)
    console.print(describe_artifact(path))
    shown = console.file.getvalue()
    assert shown.count("[/bold][link=https://x.org]a[red]b[/nothing] �[31m� � é") >= 9
    assert not {"\x1b", "\x07", "\ud800"} & set(shown)


def test_description_of_a_long_card_is_short_and_has_the_errors_of_every_dataset(make_potential, tmp_path):
    names = [f"set-{k}" for k in range(30)]
    datasets = [{"name": name, "head": "a", "labels": ["energy", "forces"], "n_training": 1234, "elements": ["H"] * 90} for name in names]
    errors = {f"{name}/{key}/mae": value for name in names for key, value in (("energy_per_atom", 0.00123), ("forces", 0.0456))}
    card = {"datasets": datasets, "training": {"command": "pretrain", "step": 7, "validation": errors}, "other": "long " * 1000}
    path = save_artifact(tmp_path / "m.safetensors", make_potential(), card=card)
    console = Console(file=io.StringIO(), width=160)
    console.print(describe_artifact(path))
    lines = console.file.getvalue().splitlines()
    rows = {name: next(line for line in lines if f" {name} " in line) for name in names}
    assert len(lines) < 80 and "5,000 characters" in " ".join(lines)
    assert all(number in row for row in rows.values() for number in ("1,234", "1.23", "45.6"))
