"""What a connection that ends means while a model is trained."""

import pytest

from unipot.training.lost_processes import LostProcessError, naming_lost_processes


def waiting(file: str, error: BaseException) -> None:
    """Raise `error` from code that lies in `file`."""
    exec(compile("raise error", file, "exec"), {"error": error})


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError("no more bytes")])
def test_a_connection_that_ends_in_the_loader_is_a_lost_process(error):
    with pytest.raises(LostProcessError, match=r"a process that loads data is gone \(.*(reset by peer|no more bytes)\)"):
        with naming_lost_processes():
            waiting("torch/utils/data/dataloader.py", error)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "Connection reset by peer"), EOFError("no more bytes")])
def test_a_connection_that_ends_elsewhere_passes(error):
    with pytest.raises(type(error)):
        with naming_lost_processes():
            waiting("requests/sessions.py", error)
