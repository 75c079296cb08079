"""Errors in the viewer, and where it listens."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time

import pytest

from viewer.courier import Courier
from viewer.faults import TOLERATED, Faults, in_time
from viewer.server import ViewerError, free_port, open_server, url_of, where


def _fail() -> None:
    raise RuntimeError("on purpose\nin two lines")


def test_each_fault_is_one_line_and_after_some_of_them_the_viewer_is_given_up_once(caplog):
    given_up: list[int] = []
    faults = Faults(lambda: given_up.append(1), "training goes on")
    with caplog.at_level(logging.WARNING):
        for _ in range(TOLERATED + 3):
            faults.guarded(_fail)()
    assert given_up == [1]
    assert len(caplog.messages) == TOLERATED
    assert caplog.messages[0] == "viewer: RuntimeError: on purpose in two lines; training goes on"
    assert "it is closed now" in caplog.messages[-1]


def test_what_the_program_is_stopped_by_is_no_fault():
    faults = Faults(lambda: None, "")
    with pytest.raises(KeyboardInterrupt):
        faults.guarded(lambda: (_ for _ in ()).throw(KeyboardInterrupt))()
    assert faults.count == 0


def test_the_courier_goes_on_after_an_errand_that_failed():
    faults, done = Faults(lambda: None, ""), threading.Event()
    courier = Courier(faults)
    courier.take(_fail)
    courier.take(done.set)
    assert done.wait(10)
    courier.finish(10)
    assert faults.count == 1 and not courier.busy


def test_nothing_waits_longer_than_it_may():
    assert in_time(lambda: 3, 10, "it") == 3
    with pytest.raises(RuntimeError, match="on purpose"):
        in_time(_fail, 10, "it")
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="it took more than"):
        in_time(lambda: time.sleep(30), 0.1, "it")
    assert time.monotonic() - began < 15  # not the 30 s of what is waited for


def test_a_port_that_is_taken_is_passed_over_and_said():
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        found = free_port("127.0.0.1", taken)
    assert found > taken
    assert (
        where(f"http://localhost:{found}", taken)
        == f"viewer: http://localhost:{found} (port {taken} is taken)"
    )
    assert where(f"http://localhost:{taken}", taken) == f"viewer: http://localhost:{taken}"


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "not a host"])
def test_a_host_that_is_not_this_machine_is_refused(host):
    with pytest.raises(ViewerError, match="viewer host"):  # 192.0.2.0/24 is kept for documentation
        free_port(host, 8080)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ViewerError, match="expected 1 to 65535"):
        free_port("127.0.0.1", port)


def test_without_viser_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(ViewerError, match="pip install viser"):
        open_server("localhost", 8080, "title", Faults(lambda: None, ""))


def test_addresses_are_given_as_browsers_take_them():
    assert url_of("localhost", 8080) == "http://localhost:8080"
    assert url_of("0.0.0.0", 8080) == f"http://{socket.gethostname()}:8080"
    assert url_of("::1", 8080) == "http://[::1]:8080"
