"""Cards that are damaged, a stranger's or a forger's: refused in one sentence, before they cost time or memory."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from tests.unit.zoo.artifact_cases import rewrite
from unipot.models import CoreRepulsion
from unipot.zoo import ArtifactError, describe_artifact, load_artifact, load_potential, read_card, save_artifact
from unipot.zoo.card import CHECKSUM, MAX_BYTES, MAX_DEPTH
from unipot.zoo.sample import sample_of


def leaves(value, place=()):
    """Places of all numbers and texts of a card."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from leaves(value[key], (*place, key))
    else:
        yield place


def changed(card, place):
    """The card with another value at that place."""
    card = json.loads(json.dumps(card))
    *path, last = place
    target = card
    for key in path:
        target = target[key]
    value = target[last]
    target[last] = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else f"{value}x"
    return card


def test_a_change_of_anything_in_the_card_is_refused(saved):
    path, _ = saved
    card = read_card(path)
    places = list(leaves(card))
    assert ("potential", "heads", "a", "level_of_theory") in places and ("datasets", 0, "licence") in places
    for place in places:
        rewrite(path, card=changed(card, place), sealed=False)
        with pytest.raises(ArtifactError):
            load_artifact(path) if place == ("format_version",) else read_card(path)  # cards of newer formats may be looked at
    rewrite(path, card=card, sealed=False)
    assert load_artifact(path).card == card


def test_a_changed_card_is_not_shown_either(saved):
    path, _ = saved
    rewrite(path, card={**read_card(path), "licence": "public domain"}, sealed=False)
    with pytest.raises(ArtifactError, match=r"the card was changed after it was written: its SHA-256 is .* it states .*save_artifact"):
        describe_artifact(path)


def test_spaces_and_the_order_of_keys_in_a_card_do_not_matter(tmp_path, make_potential):
    path = save_artifact(tmp_path / "m", make_potential())
    card = json.loads((path / "card.json").read_text())
    (path / "card.json").write_text(json.dumps(dict(reversed(card.items()))))
    assert load_artifact(path).potential.head_names == ("only",)


def test_a_card_without_checksum_is_read_as_earlier_versions_wrote_it(saved):
    path, _ = saved
    card = read_card(path)
    del card[CHECKSUM]
    rewrite(path, card={**card, "golden": [entry for entry in card["golden"] if entry["id"] != "golden-close"]}, sealed=False)
    assert load_artifact(path).potential.head_names == ("a", "b-2")


def test_a_card_that_has_lost_its_checksum_is_refused(saved):
    path, _ = saved
    card = read_card(path)
    card["card_6ha256"] = card.pop(CHECKSUM)
    rewrite(path, card=card, sealed=False)
    with pytest.raises(ArtifactError, match="the card has lost its SHA-256"):
        load_artifact(path)


@pytest.mark.parametrize("version", [-(2**63), -1, 0, 2**63, True, "3", None, [3]])
def test_a_format_version_that_is_none_is_refused_at_once(saved, version):
    path, _ = saved
    rewrite(path, card={**read_card(path), "format_version": version})
    with pytest.raises(ArtifactError, match="format"):
        load_potential(path)


#: what the description of a model may ask for, and what is said
HUGE = {
    "n_layers": 10**9,
    "n_channels": 10**12,
    "n_vector_channels": 10**9,
    "n_radial": 2**40,
    "n_radial_hidden": 10**7,
    "n_shapes": [10**9, 1, 1],
    "cutoff": 1e9,
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("key", HUGE)
def test_a_model_larger_than_its_weights_is_refused_before_it_is_made(saved, key):
    path, _ = saved
    card = read_card(path)
    card["potential"]["backbone"]["hyperparameters"][key] = HUGE[key]
    rewrite(path, card=card)
    with pytest.raises(ArtifactError, match=f"cannot be built: .*({key}|larger than the weights)"):
        load_potential(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("n_hidden", [10**9, 200_000])
def test_a_head_larger_than_its_weights_is_refused_before_it_is_made(saved, n_hidden):
    path, _ = saved
    card = read_card(path)
    card["potential"]["heads"]["a"] |= {"n_hidden": n_hidden, "posterior": 3}
    rewrite(path, card=card)
    with pytest.raises(ArtifactError, match="far larger than the weights that come with it"):
        load_potential(path)


@pytest.mark.timeout(60)
def test_golden_values_of_too_many_pairs_are_refused(saved):
    path, _ = saved
    card = read_card(path)
    card["golden"][1]["cell"] = (1e-3 * np.eye(3)).tolist()
    rewrite(path, card=card)
    with pytest.raises(ArtifactError, match="golden structure 'crystal' has about .* pairs"):
        load_potential(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 10, 900, 100_000])
def test_a_nested_card_is_refused(tmp_path, make_potential, opening, depth):
    path = save_artifact(tmp_path / "m", make_potential())
    closing = "]" if opening == "[" else "}"
    (path / "card.json").write_text(f'{{"format": "unipot-model", "x": {opening * depth}1{closing * depth}}}')
    for read in (read_card, load_artifact, describe_artifact):
        with pytest.raises(ArtifactError, match=f"more than {MAX_DEPTH} deep"):
            read(path)


@pytest.mark.parametrize("number", ["1e999", "NaN", "-Infinity", "1" * 5000])
def test_numbers_that_are_none_are_refused(tmp_path, make_potential, number):
    path = save_artifact(tmp_path / "m", make_potential())
    text = (path / "card.json").read_text()
    (path / "card.json").write_text(text.replace('"n_channels": 8', f'"n_channels": {number}'))
    with pytest.raises(ArtifactError, match="not valid JSON"):
        read_card(path)


def test_a_card_of_gigabytes_is_not_read(tmp_path, make_potential):
    path = save_artifact(tmp_path / "m", make_potential())
    with (path / "card.json").open("r+b") as file:
        file.truncate(10 * MAX_BYTES)  # holes: takes no space
    with pytest.raises(ArtifactError, match=r"card\.json has 320,000,000 bytes, at most"):
        read_card(path)


def test_a_card_that_is_not_text_is_refused(tmp_path, make_potential):
    path = save_artifact(tmp_path / "m", make_potential())
    (path / "card.json").write_bytes(b'{"format": "\xff\xfe"}')
    with pytest.raises(ArtifactError, match="is not text in UTF-8"):
        read_card(path)


@pytest.mark.timeout(30)
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "m.safetensors")
    with pytest.raises(ArtifactError, match="not an ordinary file"):
        read_card(tmp_path / "m.safetensors")


def test_values_of_another_kind_in_a_card_are_one_sentence(tmp_path, make_potential):
    """Values of the card in turn become a list, a mapping, a text, a number and nothing; of a list the first entry."""
    sample = [{"dataset": "d", "head": "only", "labels": ["energy"], "structures": [{"atomic_numbers": "1", "positions": "0 0 0"}]}]
    datasets = [{"name": "d", "head": "only", "labels": ["energy"], "n_training": 3, "provenance": {"licence": "CC0-1.0"}}]
    facts = {"sample": sample, "datasets": datasets, "references": {"only": {"mode": "fit", "rmse_per_atom": 0.1}}}
    potential = make_potential()
    potential.core_repulsion = CoreRepulsion(closest={"H-C": 0.5})
    path = save_artifact(tmp_path / "m", potential, card={**facts, "training": {"validation": {"d/forces/mae": 0.1}}})
    card = read_card(path)
    places = {place[:n] for place in leaves(card) for n in range(1, len(place) + 1) if place[0] != "units"}
    places = sorted((place for place in places if not any(isinstance(key, int) and key > 0 for key in place) and len(place) < 6), key=str)
    assert len(places) > 60
    for place in places:
        for value in ([], {}, "x", -1, None):
            mutant = json.loads(json.dumps(card))
            *above, last = place
            target = mutant
            for key in above:
                target = target[key]
            target[last] = value
            rewrite(path, card=mutant)
            for use in (describe_artifact, lambda path: sample_of(read_card(path)), load_artifact):
                try:
                    use(path)
                except ArtifactError:
                    pass


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_header_is_refused_or_means_the_same(tmp_path, make_potential, seed):
    """One byte of the header, where names, shapes and the card stand, is another."""
    path = save_artifact(tmp_path / "m.safetensors", make_potential())
    whole, expected = path.read_bytes(), load_artifact(path)
    size = 8 + int.from_bytes(whole[:8], "little")
    rng, refused = np.random.default_rng(seed), 0
    for place in rng.choice(size, size=60, replace=False):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            found = load_artifact(path)
        except ArtifactError:
            refused += 1
        else:
            assert found.card == expected.card
    assert refused > 50
