"""What may stand where a model is wanted."""

from pathlib import Path

import pytest

from unipot.zoo.names import Address, HubName, ZooName, parse_name

HASH = "ab" * 32


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("unipot-base", ZooName("unipot-base")),
        ("unipot-base-small@1.0", ZooName("unipot-base-small", "1.0")),
        ("m2@3", ZooName("m2", "3")),
        ("hf://owner/model", HubName(owner="owner", name="model")),
        ("hf://Owner/model.v1@main/sub/m.safetensors", HubName(owner="Owner", name="model.v1", revision="main", file="sub/m.safetensors")),
        ("https://a.b/c/m.safetensors", Address("https://a.b/c/m.safetensors")),
        (f"http://a.b/m.safetensors#sha256={HASH}", Address("http://a.b/m.safetensors", HASH)),
        ("model.safetensors", Path("model.safetensors")),
        ("runs/a/best.safetensors", Path("runs/a/best.safetensors")),
        ("unipot-base@", Path("unipot-base@")),
        ("unipot-base@latest", Path("unipot-base@latest")),
        ("Unipot", Path("Unipot")),
        ("-a", Path("-a")),
        ("x" * 65, Path("x" * 65)),
        ("x" * 5000, Path("x" * 5000)),
        ("a\0b", Path("a\0b")),
        ("", Path("")),
    ],
)
def test_a_text_is_a_name_an_address_or_a_path(text, name):
    assert parse_name(text) == name and type(parse_name(text)) is type(name)


def test_what_exists_as_a_path_stays_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(parse_name("unipot-base@1.0"), ZooName)
    (tmp_path / "unipot-base@1.0").mkdir()
    assert parse_name("unipot-base@1.0") == Path("unipot-base@1.0")
    assert parse_name(Path("nowhere")) == Path("nowhere")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://a.b/m.safetensors", "can be changed on its way; use https://, or add #sha256="),
        ("https://a.b/m.safetensors#sha256=12", "64 hexadecimal digits"),
        ("https://a.b/m.safetensors#v1", "stands sha256="),
        ("https:///m.safetensors", "is no address"),
        ("https://[a/m.safetensors", "is no address"),
        ("https://a.b/m\n.safetensors", "is no address"),
        ("https://a.b/" + "m" * 3000, "is no address"),
        ("ftp://a.b/m.safetensors", "models come from https:// and hf://, not ftp://"),
        ("hf://owner", "is no model of the hub; write hf://owner/name"),
        ("hf://owner/../m", "is no model of the hub"),
        ("hf://owner/name@", "is no model of the hub"),
    ],
)
def test_what_looks_like_an_address_and_is_none_is_refused(text, message):
    with pytest.raises(ValueError) as refused:
        parse_name(text)
    assert message in str(refused.value) and len(str(refused.value)) < 400


def test_the_size_is_the_last_word_of_a_name():
    assert [ZooName(name).size for name in ("a-small", "a-b", "small")] == ["small", None, None]
