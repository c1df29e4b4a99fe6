"""How the message of a user's mistake is shown."""

import pytest

from unipot.errors import InputError, MissingFile, UnknownName


@pytest.mark.parametrize("kind", [InputError, UnknownName, MissingFile])
def test_a_message_is_shown_as_it_was_written(kind):
    assert str(kind("head 'a' is not there, 0.5 eV/Å; take 'b'")) == "head 'a' is not there, 0.5 eV/Å; take 'b'"


def test_bytes_of_a_damaged_file_are_shown_as_printable_characters():
    assert str(InputError("key '\x1b[31m\x00' is not known")) == r"key '\x1b[31m\x00' is not known"


def test_a_file_that_is_quoted_is_cut_and_the_advice_at_the_end_stays():
    shown = str(InputError(f"card.json: {'x' * 10_000} is no number; copy it again"))
    assert len(shown) < 800 and shown.startswith("card.json: xxx") and shown.endswith("x is no number; copy it again")


def test_what_another_process_has_raised_is_not_cut():
    text = "Caught InputError in DataLoader worker\n" + 100 * "  File, line 1\n"
    assert str(InputError(text)) == text


def test_lines_stay_lines():
    assert str(InputError("two:\n  a\n  b")) == "two:\n  a\n  b"
