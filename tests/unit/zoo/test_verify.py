"""`unipot models verify` looks at everything that can be compared, and at more than loading does."""

import json

import pytest

from unipot.cli import main
from unipot.models.posterior import LastLayerPosterior
from unipot.zoo import ArtifactError, read_card, save_artifact
from unipot.zoo.card import CHECKSUM, checksum_of
from unipot.zoo.verify import verify_model

SAMPLE = [{"dataset": "d", "head": "a", "labels": ["energy"], "structures": [{"atomic_numbers": "1 1", "positions": "0 0 0 0 0 0.74"}]}]


@pytest.fixture
def folder(tmp_path, make_potential):
    """A model of two heads with a sample."""
    return save_artifact(tmp_path / "model", make_potential(heads=("a", "b")), card={"sample": SAMPLE})


def rewrite(folder, **changes):
    """Another card whose checksum fits."""
    card = {**read_card(folder), **changes}
    (folder / "card.json").write_text(json.dumps({**card, CHECKSUM: checksum_of(card)}))


def test_a_model_as_it_was_written_passes_and_the_command_lists_what_was_looked_at(folder, capsys):
    assert main(["models", "verify", str(folder)]) == 0
    said = capsys.readouterr().out
    assert [line.partition(":")[0] for line in said.splitlines()[:5]] == ["card", "tensors", "golden values", "error bars", "sample"]
    assert "6 predictions of 2 head(s)" in said and "1 structures and 0 labelled differences" in said and "as it was written" in said


def test_a_damaged_model_is_one_sentence_and_code_2(folder, capsys, monkeypatch):
    monkeypatch.delenv("UNIPOT_DEBUG", raising=False)
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-9] ^= 4
    (folder / "model.safetensors").write_bytes(content)
    assert main(["models", "verify", str(folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "the tensors have SHA-256" in captured.err and captured.err.count("\n") == 1


def test_a_head_without_a_golden_value_is_found(folder):
    rewrite(folder, golden=[entry for entry in read_card(folder)["golden"] if entry["head"] == "a"])
    with pytest.raises(ArtifactError, match="the card has no golden value of head 'b'"):
        verify_model(folder)


def test_a_sample_that_cannot_be_read_is_found(folder):
    rewrite(folder, sample=[{**SAMPLE[0], "structures": [{"atomic_numbers": "1 999999999999999999999", "positions": "0 0 0"}]}])
    with pytest.raises(ArtifactError, match="the sample in the card is malformed"):
        verify_model(folder)


def test_error_bars_of_other_weights_are_found(folder, tmp_path, make_potential, monkeypatch):
    potential = make_potential(heads=("a", "b"))
    potential.heads["b"].posterior = LastLayerPosterior(8)
    monkeypatch.setattr("unipot.zoo.artifact.is_stale", lambda *given: False)
    path = save_artifact(tmp_path / "stale.safetensors", potential)
    with pytest.raises(ArtifactError, match="the error bars of head 'b' belong to other weights"):
        verify_model(path)


def test_a_card_without_checksum_is_said_to_be_unchecked(folder):
    card = {key: value for key, value in read_card(folder).items() if key != CHECKSUM}
    card["golden"] = [entry for entry in card["golden"] if entry["id"] != "golden-close"]  # as earlier versions of unipot wrote it
    (folder / "card.json").write_text(json.dumps(card))
    assert "has no SHA-256 of its own" in dict(verify_model(folder))["card"]
