import pytest

from unipot.data.spec import check_dataset_name, free_head_name
from unipot.workflows.inputs.user_frames import name_of


@pytest.mark.parametrize(
    "path, name",
    [
        ("my_water.extxyz", "my_water"),
        ("/data/rmd17_ethanol/train.extxyz", "rmd17_ethanol"),
        ("stores/oc20.unipot/", "oc20"),
        ("slab 300K (new).xyz", "slab-300K-new"),
        ("ethanol.v2.extxyz", "ethanol"),
    ],
)
def test_dataset_name_comes_from_file_or_folder(path, name):
    assert name_of(path) == name
    check_dataset_name(name_of(path))


def test_nameless_file_without_a_telling_folder_still_has_a_name():
    assert name_of("/train.extxyz") == "train"


def test_head_name_avoids_those_taken():
    assert free_head_name("My_Water", ()) == "my-water"
    assert free_head_name("My_Water", ("my-water", "my-water-2")) == "my-water-3"
