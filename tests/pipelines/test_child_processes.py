"""Ctrl-C while processes are started."""

import os
import signal
import threading

import pytest

from rlpipe.pipelines.child_processes import interrupts_wait

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="this system cannot block signals")


@pytest.fixture
def handled():
    """The signals that this process's own handler has seen."""
    seen = []
    before = signal.signal(signal.SIGINT, lambda *arguments: seen.append(arguments[0]))
    yield seen
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def another_thread():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    yield thread
    done.set()
    thread.join()


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_ctrl_c_that_another_thread_receives_waits_as_well(handled, another_thread, context):
    arrived, told = os.pipe()
    os.set_blocking(told, False)
    before = signal.set_wakeup_fd(told)
    try:
        with interrupts_wait(context):
            signal.pthread_kill(another_thread.ident, signal.SIGINT)
            assert os.read(arrived, 1) == bytes([signal.SIGINT])
            during = list(handled)
    finally:
        signal.set_wakeup_fd(before)
        os.close(arrived)
        os.close(told)
    assert during == []
    assert handled == [signal.SIGINT]


def test_ctrl_c_that_this_thread_receives_waits(handled):
    with interrupts_wait("fork"):
        signal.raise_signal(signal.SIGINT)
        during = list(handled)
    assert during == []
    assert handled == [signal.SIGINT]
