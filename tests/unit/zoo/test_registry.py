"""Registries: which models have names, and that nothing out of a file is believed before it is looked at."""

import json

import pytest

from unipot.zoo.names import ZooName
from unipot.zoo.registry import read_registry, read_registry_file
from unipot.zoo.registry_schema import RegistryError, entries_of_text, text_of_entries

HASH = "ab" * 32


def model(name="mine", version="1.0", **changes):
    files = [{"file": "model.safetensors", "bytes": 10, "sha256": HASH, "urls": ["https://a.b/m.safetensors"]}]
    licences = {"code": {"name": "MIT"}, "weights": {"name": "CC-BY-4.0", "url": "https://l"}}
    return {"name": name, "version": version, "status": "current", "superseded_by": None, "files": files, "licences": licences, **changes}


def registry(*models, **changes):
    return json.dumps({"format": "unipot-zoo", "format_version": 1, "models": list(models), **changes})


def file_of(**changes):
    return [{**model()["files"][0], **changes}]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without registries."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("UNIPOT_ZOO", raising=False)
    (tmp_path / "config" / "unipot").mkdir(parents=True)
    return tmp_path


def test_the_registry_of_the_package_is_sound(home):
    assert all(entry.source.endswith("registry.json") for entry in read_registry().entries.values())


def test_models_of_the_user_and_the_site_are_found(home, monkeypatch):
    (home / "config" / "unipot" / "zoo.json").write_text(registry(model("mine")))
    (home / "one.json").write_text(registry(model("site")))
    (home / "two.json").write_text(registry(model("other-small")))
    monkeypatch.setenv("UNIPOT_ZOO", f"{home / 'one.json'}:{home / 'two.json'}")
    found = read_registry()
    assert {"mine@1.0", "site@1.0", "other-small@1.0"} <= set(found.entries)
    assert found.find(ZooName("site")).weights.name == "CC-BY-4.0"


def test_a_registry_of_the_site_that_is_not_there_is_said(home, monkeypatch):
    monkeypatch.setenv("UNIPOT_ZOO", str(home / "none.json"))
    with pytest.raises(FileNotFoundError, match="UNIPOT_ZOO names .*none.json, which is not there"):
        read_registry()


def test_a_name_without_a_version_is_the_newest_in_use(home):
    models = [model(version="1.9"), model(version="1.10"), model(version="2.0", status="withdrawn")]
    (home / "z.json").write_text(registry(*models))
    found = read_registry([home / "z.json"])
    assert found.find(ZooName("mine")).version == "1.10"
    assert found.find(ZooName("mine", "2.0")).status == "withdrawn"
    with pytest.raises(FileNotFoundError, match="mine has no version 3.0; there are: 1.9, 1.10, 2.0"):
        found.find(ZooName("mine", "3.0"))


def test_the_closest_name_is_offered(home):
    (home / "z.json").write_text(registry(model("water"), model("alloys-small"), model("alloys-large")))
    found = read_registry([home / "z.json"])
    with pytest.raises(FileNotFoundError, match=r"'watr' is neither a path that is there nor .* model \(did you mean 'water'\?\)"):
        found.find(ZooName("watr"))
    with pytest.raises(FileNotFoundError, match="say which size: alloys-large, alloys-small"):
        found.find(ZooName("alloys"))
    with pytest.raises(FileNotFoundError, match="models are: alloys-large, alloys-small, water"):
        found.find(ZooName("zzz"))
    with pytest.raises(FileNotFoundError, match=r"no models are registered; correct the path, or name a registry in \$UNIPOT_ZOO"):
        read_registry([]).find(ZooName("zzz"))


def test_one_version_in_two_registries_is_one_model_with_the_mirrors_of_both(home):
    (home / "a.json").write_text(registry(model(files=file_of(urls=["https://near/m", "m.safetensors"]))))
    (home / "b.json").write_text(registry(model()))
    (file,) = read_registry([home / "a.json", home / "b.json"]).entries["mine@1.0"].files
    assert file.urls == ("https://near/m", str(home / "m.safetensors"), "https://a.b/m.safetensors")
    (home / "b.json").write_text(registry(model(files=file_of(sha256="cd" * 32))))
    with pytest.raises(RegistryError, match="mine@1.0 is one model in .*a.json and another in .*b.json .*a version never changes"):
        read_registry([home / "a.json", home / "b.json"])


def test_what_is_written_is_read_back(home):
    text = registry(model(heads={"pbe": "PBE"}, elements=["H"], summary="s", citation="c", access="ask"))
    entries = entries_of_text(text, "z.json", home)
    assert entries_of_text(text_of_entries(entries), "z.json", home) == entries


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is not valid JSON"),
        ("[]", "it does not say format 'unipot-zoo'"),
        pytest.param("[" * 100_000, "too deep", id="deep"),
        (registry(format_version=2), "format_version is 2, this unipot reads 1; upgrade unipot"),
        (registry(models={}), "models is {}, where a list belongs"),
        (registry(3), r"models[0] is 3, where keys and values belong"),
        (registry(model(), model()), "mine@1.0 stands in it twice"),
        (registry(model(nmae="x")), "models[0] has the key 'nmae', which is not known (did you mean 'name'?)"),
        (registry({"name": "mine"}), "models[0] has no version"),
        (registry(model("../x")), "models[0].name is '../x'; a name has"),
        (registry(model(version="one")), "models[0].version is 'one'; a version is like 1.0"),
        (registry(model(status="new")), "models[0] (mine@1.0).status is 'new'; use one of: current,"),
        (registry(model(superseded_by="/x")), "superseded_by is '/x'; write the name of a model"),
        (registry(model(licences={"code": {"name": "MIT"}})), "licences has to have code and weights"),
        (registry(model(licences={"code": {"name": "MIT"}, "weights": {"name": " "}})), "licences.weights.name is empty"),
        (registry(model(elements=["Xx"])), "elements has 'Xx', which is no chemical symbol"),
        (registry(model(heads=[])), "heads is []; it maps each head to its level of theory"),
        (registry(model(summary=3)), "summary is 3, where a text"),
        (registry(model(files=[])), "a model is one .safetensors file, or card.json and model.safetensors"),
        (registry(model(files=file_of(file="model.pt"))), "are ['model.pt']; a model is one .safetensors file"),
        (registry(model(files=file_of(file="../m.safetensors"))), "a model is one .safetensors file"),
        (registry(model(files=file_of() * 9)), "files has 9 entries, at most 2 are read"),
        (registry(model(files=file_of(bytes=10**12))), "has 1,000,000,000,000 bytes, at most 100,000,000,000 are fetched"),
        (registry(model(files=file_of(bytes=True))), "files[0].bytes is True"),
        (registry(model(files=file_of(bytes=-1))), "files[0].bytes is -1"),
        (registry(model(files=file_of(bytes=1.5))), "the number 1.5 in it is not whole"),
        (registry(model(files=file_of(sha256="AB" * 32))), "it has 64 hexadecimal digits in small letters"),
        (registry(model(files=file_of(urls=["ftp://a/b"]))), "urls[0] is 'ftp://a/b'; an address begins with https://"),
        (registry(model(files=file_of(urls=["/etc/passwd"]))), "is a path below the folder of the registry"),
        (registry(model(files=file_of(urls=["../m.safetensors"]))), "is a path below the folder of the registry"),
        ('{"format": "unipot-zoo", "format": "unipot-zoo"}', "the key 'format' stands twice"),
        (registry(model(files=file_of(bytes=int("9" * 25)))), "a number in it has 25 digits"),
    ],
)
def test_a_bad_registry_is_one_sentence_with_file_and_key(tmp_path, text, message):
    file = tmp_path / "zoo.json"
    file.write_text(text)
    with pytest.raises(RegistryError) as refused:
        read_registry_file(file)
    assert str(refused.value).startswith(f"{file}: ") and message in str(refused.value) and "\n" not in str(refused.value)


def test_what_is_no_text_or_too_long_is_no_registry(tmp_path):
    file = tmp_path / "zoo.json"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(RegistryError, match="zoo.json: it is not text in UTF-8"):
        read_registry_file(file)
    file.write_bytes(b" " * 9_000_000)
    with pytest.raises(RegistryError, match="has 9,000,000 bytes, at most 8,000,000 are read"):
        read_registry_file(file)
    with pytest.raises(RegistryError, match="is no ordinary file"):
        read_registry_file(tmp_path)
