"""Workers beside other threads of the process, and at the limits of the system."""

import errno
import gc
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import threadpoolctl

from minicnn import evaluate, fit
from minicnn.training import forking, workers
from minicnn.training.parallel import batch_gradients
from minicnn.training.workers import ONE_BLAS_THREAD, worker_map

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks safely")


def blas_threads():
    return [
        library["num_threads"]
        for library in threadpoolctl.threadpool_info()
        if library["user_api"] == "blas"
    ]


def processes(count):
    """How many processes share the work of so many workers."""
    with worker_map(lambda _: os.getpid(), count) as map_:
        return len(set(map_([None] * count)))


def beside(loop, statements, first=""):
    """What a program prints, whose main thread runs `statements` while another one repeats `loop`.
    It counts as frozen after a minute, of which it needs a second or two."""
    program = f"""
import os, sys, threading, time
import numpy as np
from minicnn import digits, evaluate, fit, lenet
from minicnn.training.workers import worker_map

sys.setswitchinterval(0.001)  # or each call of NumPy waits 5 ms for the interpreter's lock

train, test = digits(75, 150)
net = lenet(np.random.default_rng(0))
a = np.random.default_rng(0).standard_normal((600, 600))
{first}

def loop():
    while True:
        {loop}

threading.Thread(target=loop, daemon=True).start()
time.sleep(0.1)
{statements}
"""
    command = [sys.executable, "-W", "error:::minicnn", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


COMPUTING = {
    "a product on all cores": "a @ a",
    "small products": "[a[:20, :20] @ a[:20, :20] for _ in range(100)]",
    "now and then": "a @ a; time.sleep(0.003)",
    "LAPACK": "np.linalg.svd(a[:100, :100])",
    "Python": "sum(range(1000))",
    "the same network": "net(test.batch(slice(0, 64))[0])",
    "evaluation too": "evaluate(net, test, workers=2)",
}


RESULTS = """
def results(workers):
    trained = lenet(np.random.default_rng(0))
    history = fit(trained, train, epochs=1, batch_size=75, workers=workers, progress=False)
    return evaluate(net, test, workers=workers), evaluate(net, test), history.train_loss

expected = results(1)
"""


@pytest.mark.parametrize("loop", COMPUTING.values(), ids=COMPUTING)
def test_nothing_freezes_while_another_thread_computes(loop):
    assert beside(loop, "print(results(2) == expected)", first=RESULTS) == ["True"]


@linux
def test_threads_that_wait_do_not_keep_the_workers_from_being_processes():
    """As those of a notebook's kernel do: for an event, a lock, a pipe, or for some time."""
    stop, lock, (reader, writer) = threading.Event(), threading.Lock(), os.pipe()
    waits = [stop.wait, lock.acquire, lambda: os.read(reader, 1), lambda: stop.wait(100)]
    threads = [threading.Thread(target=wait, daemon=True) for wait in waits]
    with lock:
        for thread in threads:
            thread.start()
        assert [processes(2) for _ in range(5)] == [2] * 5
    stop.set()
    os.write(writer, b".")
    for thread in threads:
        thread.join()
    os.close(reader), os.close(writer)


@linux
def test_a_process_whose_other_threads_never_wait_works_alone(monkeypatch):
    monkeypatch.setattr(forking, "_runs", lambda state: True)
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert processes(2) == 1
    stop.set()
    thread.join()


@linux
def test_ctrl_c_ends_an_evaluation_beside_a_thread_that_computes():
    program = """
import threading, time
import numpy as np
from minicnn import digits, evaluate, lenet
train, test = digits(10, 2000)
a = np.ones((600, 600))
def loop():
    while True:
        a @ a
threading.Thread(target=loop, daemon=True).start()
net = lenet(np.random.default_rng(0))
evaluate(net, test, workers=2)
print("ready", flush=True)
try:
    while True:
        evaluate(net, test, workers=2)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[0] == "interrupted\n"
    finally:
        process.kill()
        process.wait()


def overlapping(first, second):
    """Runs the blocks so that `first` begins first and ends first, in a thread of its own."""
    first_began, second_began = threading.Event(), threading.Event()

    def run():
        with first():
            first_began.set()
            second_began.wait(60)

    thread = threading.Thread(target=run)
    thread.start()
    first_began.wait(60)
    with second():
        second_began.set()
        thread.join()
        inside = blas_threads()
    return inside


def test_blocks_that_overlap_leave_blas_as_it_was(new_net, small_digits):
    def block():
        return batch_gradients(new_net(), small_digits[0], 64, workers=1)

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        for first, second in (block, block), (lambda: ONE_BLAS_THREAD, block):
            assert set(overlapping(first, second)) == {1}  # still, when the first has ended
            assert blas_threads() == before
        threads = [
            threading.Thread(target=evaluate, args=(new_net(), part), kwargs={"workers": 1})
            for part in (small_digits[0], small_digits[1], small_digits[1])
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert blas_threads() == before


def test_blas_is_as_it_was_after_an_exception_and_when_a_generator_is_dropped(
    new_net, small_digits
):
    def stop(_):
        raise KeyError

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with pytest.raises(KeyError):
            fit(new_net(), small_digits[0], epochs=1, on_epoch=stop, workers=1, progress=False)
        assert blas_threads() == before
        block = batch_gradients(new_net(), small_digits[0], 64, workers=2)
        block.__enter__()
        assert set(blas_threads()) == {1}
        del block
        gc.collect()
        assert blas_threads() == before


def test_another_thread_can_still_limit_blas_afterwards(new_net, small_digits):
    evaluate(new_net(), small_digits[1], workers=1)
    found = []

    def limit():
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            found.extend(blas_threads())

    thread = threading.Thread(target=limit)
    thread.start()
    thread.join()
    assert set(found) == {1}


def refuses(code, after):
    """A fork that the system refuses, with this error, after so many."""
    forks = iter(range(10**6))

    def fork():
        if next(forks) >= after:
            raise OSError(code, os.strerror(code))
        return real()

    real = forking.quiet_fork
    return fork


@pytest.fixture(autouse=True)
def nothing_told_yet(monkeypatch):
    monkeypatch.setattr(workers, "_told", None)


@linux
@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM])
@pytest.mark.parametrize("after", [0, 1])
def test_a_process_that_is_refused_leaves_the_workers_that_there_are(code, after, monkeypatch):
    monkeypatch.setattr(workers, "quiet_fork", refuses(code, after))
    expected = f"no more processes.*{os.strerror(code)}.*{after + 1} of 3 workers"
    with pytest.warns(UserWarning, match=expected) as caught:
        assert processes(3) == after + 1
    assert len(caught) == 1 and "\n" not in str(caught[0].message)


@linux
def test_open_files_may_run_out_too(monkeypatch):
    def no_pipe():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(workers.multiprocessing, "Pipe", no_pipe)
    with pytest.warns(UserWarning, match="Too many open files"):
        assert processes(2) == 1


@linux
def test_training_goes_on_at_the_limit_of_processes(new_net, small_digits, monkeypatch):
    train, test = small_digits
    expected = fit(new_net(), train, test, epochs=2, workers=1, progress=False)
    monkeypatch.setattr(workers, "quiet_fork", refuses(errno.EAGAIN, 0))
    with pytest.warns(UserWarning, match="1 of 2 workers") as caught:
        history = fit(new_net(), train, test, epochs=2, workers=2, progress=False)
    assert len(caught) == 1
    assert history.train_loss == expected.train_loss
    assert history.test_loss == expected.test_loss


@linux
def test_no_process_is_left_unreaped():
    for _ in range(3):
        assert processes(3) == 3
    with pytest.raises(ChildProcessError):  # there is none to wait for
        os.waitpid(-1, os.WNOHANG)


@linux
def test_what_was_printed_before_a_fork_is_printed_once():
    program = """
import os
from minicnn.training.workers import worker_map
print("once", end="")
with worker_map(lambda _: print("x") or os.sys.stdout.flush(), 2) as map_:
    map_([1, 2])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.count("once") == 1 and done.stdout.count("x") == 2


def test_the_numbers_do_not_depend_on_what_the_workers_are(new_net, small_digits, monkeypatch):
    results = []
    for fork in (forking.quiet_fork, lambda: None):
        monkeypatch.setattr(workers, "quiet_fork", fork)
        results.append(fit(new_net(), small_digits[0], epochs=1, workers=2, progress=False))
    assert results[0].train_loss == results[1].train_loss
    assert np.isfinite(results[0].train_loss).all()


BESIDE_EVALUATIONS = """
import multiprocessing, threading, warnings
import numpy as np
from minicnn import digits, evaluate, lenet

_, test = digits(1, 300)
net = lenet(np.random.default_rng(0))
expected = evaluate(net, test, workers=1)

def loop():
    while True:
        evaluate(net, test, workers=2)

def work(queue):
    queue.put(evaluate(net, test, workers=2))

threading.Thread(target=loop, daemon=True).start()
warnings.simplefilter("ignore", DeprecationWarning)
context = multiprocessing.get_context("fork")
for _ in range(8):
    queue = context.SimpleQueue()
    process = context.Process(target=work, args=(queue,))
    process.start()
    assert queue.get() == expected
    process.join()
"""


@linux
def test_a_copy_that_somebody_else_forks_works_too():
    """While another thread is inside a block, so that locks and counts are copied as they stand.
    One BLAS thread, or such a fork could freeze without us."""
    env = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", BESIDE_EVALUATIONS], env=env, check=True, timeout=60)


@linux
def test_blas_is_restored_in_a_copy_made_inside_a_block(new_net, small_digits):
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        before = blas_threads()
        with ONE_BLAS_THREAD:
            child = os.fork()
            if child == 0:
                evaluate(new_net(), small_digits[1], workers=1)
                os._exit(0 if blas_threads() == before else 1)
            assert os.waitpid(child, 0)[1] == 0
        assert blas_threads() == before


@pytest.mark.parametrize("platform", ["linux", "elsewhere"])
def test_work_may_use_workers_itself(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)

    def work(x):
        with worker_map(lambda y: (x, y, blas_threads()), 2) as map_:
            return map_([1, 2])

    with worker_map(work, 2) as map_:
        found = map_([1, 2, 3])
    assert [[pair[:2] for pair in pairs] for pairs in found] == [
        [(x, 1), (x, 2)] for x in (1, 2, 3)
    ]
    assert {threads for pairs in found for *_, (threads,) in pairs} == {1}


@linux
def test_what_a_signal_raises_meanwhile_comes_out(monkeypatch):
    def late():
        raise TimeoutError("too slow")

    monkeypatch.setattr(workers, "quiet_fork", late)
    with pytest.raises(TimeoutError, match="too slow"):
        processes(2)


@linux
def test_an_interruption_of_a_fork_leaves_no_process():
    """It comes while SIGINT is blocked, and is raised right after the fork."""

    def fork():
        child = real()
        if child:
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        return child

    real = forking.quiet_fork
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers, "quiet_fork", fork)
        with pytest.raises(KeyboardInterrupt):
            processes(2)
    with pytest.raises(ChildProcessError):  # there is none to wait for
        os.waitpid(-1, os.WNOHANG)


@linux
def test_a_thread_that_threading_does_not_know_counts_too():
    statements = """
import _thread
_thread.start_new_thread(work, ())
time.sleep(0.1)
for _ in range(3):
    evaluate(net, test, workers=2)
print("done")
"""
    first = "def work():\n    while True:\n        a @ a"
    assert beside("time.sleep(1)", statements, first=first) == ["done"]


@linux
def test_warnings_filters_are_left_alone_beside_a_thread_that_computes():
    statements = """
import warnings
before = list(warnings.filters)
seen = set()
def watch():
    while len(seen) < 10**6:
        seen.add(tuple(map(str, warnings.filters)))
threading.Thread(target=watch, daemon=True).start()
for _ in range(3):
    evaluate(net, test, workers=2)
print(len(seen), warnings.filters == before)
"""
    assert beside("a @ a", statements) == ["1 True"]
