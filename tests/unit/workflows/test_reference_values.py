"""Reference values that a user states, in the configuration or in a file."""

import pytest

from unipot.workflows.construction.reference_values import given_values


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.yaml", "H: -13.6\nNo: -5\n"), ("a.json", '{"H": -13.6, "No": "-5.0"}'), ("a.yml", '{"H": -13.6, "No": -5}')],
)
def test_json_and_yaml_files_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert given_values(str(tmp_path / name), "values") == {1: -13.6, 102: -5.0}


def test_mapping_of_the_configuration():
    assert given_values({"O": -432, False: -5.0}, "values") == {8: -432.0, 102: -5.0}  # YAML reads an unquoted No as false


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Xx": 1.0}, "values: 'Xx' is not the symbol of an element"),
        ({"fe": 1.0}, r"values: 'fe' is not the symbol of an element \(did you mean Fe\?\)"),
        ({8: 1.0}, "values: 8 is not the symbol of an element"),
        ({"O": "many"}, "values: the value of O is 'many'; give a finite number in eV per atom"),
        ({"O": float("nan")}, "values: the value of O is nan"),
        ({"O": True}, "values: the value of O is True"),
        ({"O": None}, "values: the value of O is None"),
        ({}, "values is empty"),
        (-13.6, "values is -13.6; give element: eV"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        given_values(values, "values")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"H": -1, "H": -2}', "H is there twice"),
        ("a.yaml", "H: -1\nH: -2\n", "H is there twice"),
        ("a.json", "{", "the file cannot be read"),
        ("a.yaml", "a: [", "the file cannot be read"),
        ("a.json", "[1, 2]", "the file holds no mapping"),
        ("a.yaml", "- H\n", "the file holds no mapping"),
        ("a.yaml", "", "the file holds no mapping"),
        ("a.yaml", "H: {a: 1}\n", "the value of H is"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        given_values(str(tmp_path / name), "values")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"values \(.*none.yaml\): there is no such file"):
        given_values(str(tmp_path / "none.yaml"), "values")
