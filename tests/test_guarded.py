"""Functions on hostile files: whatever they do, the caller gets one line and goes on."""

import gc
import multiprocessing
import os
import signal
import time

import numpy as np
import pytest

from worldmodel.errors import UserError
from worldmodel.storage import guarded
from worldmodel.storage.guarded import GuardedCallError, guarded_call


def count(number: int) -> np.ndarray:
    print("not an answer")
    return np.arange(number)


def refuse(path: str) -> None:
    raise UserError(f"{path} is odd")


def fail() -> None:
    raise ZeroDivisionError("a fault of this program")


def take_memory() -> None:
    hoard = []
    while True:
        hoard.append(np.ones(2**20, np.uint8))


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def slowly(number: int) -> int:
    time.sleep(0.8)
    return number


def spin() -> None:
    while True:
        pass


def wait() -> None:
    time.sleep(1000)


def _call(function: str, *arguments: object, patience_s: float = 60.0) -> object:
    name = f"{__name__}:{function}"
    return guarded_call(name, *arguments, subject="odd.h5", patience_s=patience_s)


def test_a_function_returns_and_refuses_as_if_it_ran_here():
    np.testing.assert_array_equal(_call("count", 5), np.arange(5))
    with pytest.raises(UserError, match=r"^x\.h5 is odd$"):
        _call("refuse", "x.h5")
    with pytest.raises(GuardedCallError, match=r"ZeroDivisionError: a fault of this program"):
        _call("fail")
    np.testing.assert_array_equal(_call("count", 2), [0, 1])


@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("take_memory", "takes more than 640 MiB of memory"),
        ("crash", "crashes the program"),
        ("spin", "that is not done after 1 seconds"),
        ("wait", "that is not done after 1 seconds"),
    ],
)
def test_harm_is_one_line_and_the_next_call_works(monkeypatch, function, said):
    monkeypatch.setattr(guarded, "STARTING_S", 3.0)
    with pytest.raises(UserError, match=rf"^odd\.h5 .*{said}"):
        _call(function, patience_s=1.0)
    np.testing.assert_array_equal(_call("count", 3), [0, 1, 2])


def _count_in_a_fork(answers: "multiprocessing.Queue[list[int]]") -> None:
    answers.put(list(map(int, _call("count", 4))))  # pyright: ignore[reportArgumentType]


def test_a_forgotten_child_closes_no_file_of_others():
    child = guarded._Child()
    assert child._process.stdin is not None
    its_number = child._process.stdin.fileno()
    child.forget()
    handles = [handle for _ in range(4) for handle in os.pipe()]
    assert its_number in handles  # handed out again
    del child
    gc.collect()
    for handle in handles:
        os.close(handle)  # OSError if it is closed already


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_process_has_a_child_of_its_own():
    _call("count", 1)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=_count_in_a_fork, args=(answers,))
    process.start()
    assert answers.get(timeout=60) == [0, 1, 2, 3]
    process.join(60)
    np.testing.assert_array_equal(_call("count", 2), [0, 1])


def test_an_interrupted_call_s_answer_is_not_the_next_one_s():
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            _call("slowly", 1)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert _call("slowly", 2) == 2


def test_an_interpreter_that_does_not_start_is_not_the_file_s_fault(monkeypatch):
    guarded._drop_child()
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(UserError, match="can't start a process to read files in: /bin/false"):
        _call("count", 1)
    monkeypatch.undo()
    np.testing.assert_array_equal(_call("count", 1), [0])
