"""Interrupts: held back where work must be whole, and known again where a library has wrapped them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Annotated, Any

import pydantic
import pytest
from typer.testing import CliRunner

from apexsim.cli.main import app
from apexsim.interrupts import held, is_interrupt


def interrupt(_: Any = None) -> str:
    signal.raise_signal(signal.SIGINT)
    return ""


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """As in a terminal: whoever started the tests in the background may have had interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupted(pydantic.BaseModel):
    text: Annotated[str, pydantic.PlainSerializer(interrupt)] = ""


def test_what_is_begun_is_done_whole_and_then_interrupted():
    done = []
    with pytest.raises(KeyboardInterrupt), held():
        done.append(interrupt())
    assert done == [""]
    with pytest.raises(KeyboardInterrupt):
        interrupt()  # the handler from before is back


def test_an_error_inside_is_not_lost_and_no_interrupt_is_made_up():
    with pytest.raises(ValueError, match="mine"), held():
        raise ValueError("mine")
    with held():
        pass


def test_other_threads_run_as_they_are():
    done = []

    def work() -> None:
        with held():
            done.append(1)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [1]


def test_an_interrupt_in_a_serializer_is_still_one():
    with pytest.raises(Exception, match="KeyboardInterrupt") as error:
        Interrupted().model_dump()
    assert is_interrupt(error.value)
    assert is_interrupt(KeyboardInterrupt())
    assert not is_interrupt(ValueError("x"))
    assert not is_interrupt(None)


def test_a_command_interrupted_there_ends_with_130_and_one_word(monkeypatch):
    monkeypatch.setattr("apexsim.report.listing.listing_of", lambda kind: Interrupted().model_dump())
    result = CliRunner().invoke(app, ["list", "models"])
    assert (result.exit_code, result.output) == (130, "interrupted\n")
