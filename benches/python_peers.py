"""What Python does of what `versus` measures, as JSON on standard output.

    python3 benches/python_peers.py [--filter TEXT] [--quick]

Only the standard library is needed. The figures of free-threading (a package with one API for threads and
processes) and of loky come with them where these are installed:

    python3 -m pip install free-threading loky

Each of the lines is what one peer needs for one case of `versus`, whose names and units it has: the
median of some samples, and how fast the slowest sample was against it. Every peer runs in a process of
its own, on one core where `versus` has one.
"""

import argparse
import importlib.util
import json
import multiprocessing
import multiprocessing.pool
import os
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures

QUICK = "--quick" in sys.argv


def size(full, quick):
    return quick if QUICK else full


SAMPLES = size(5, 2)
RATES = ("k/s", "M/s", "GiB/s")

PEERS = []


def peer(case, name, unit, cores=2, package=None):
    """What it decorates prepares, and gives a function that takes a sample."""

    def register(prepare):
        PEERS.append((case, name, unit, cores, package, prepare))
        return prepare

    return register


def timed(operation, times=1):
    begin = time.perf_counter()
    for _ in range(times):
        operation()
    return (time.perf_counter() - begin) / times


# What the tasks do.


def noop():
    pass


def square(x):
    return x * x & 0xFFFFFFFFFFFFFFFF


def echo(value):
    return value


# Locks.

LOCKS = size(100_000, 20_000)


def acquire_and_release(lock):
    def sample():
        acquire, release = lock.acquire, lock.release
        begin = time.perf_counter()
        for _ in range(LOCKS):
            acquire()
            release()
        return (time.perf_counter() - begin) / LOCKS * 1e9

    return sample


@peer("Lock, uncontended", "threading.Lock", "ns")
def _():
    return acquire_and_release(threading.Lock())


@peer("RLock, uncontended", "threading.RLock", "ns")
def _():
    return acquire_and_release(threading.RLock())


@peer("Semaphore, uncontended", "threading.Semaphore", "ns")
def _():
    return acquire_and_release(threading.Semaphore())


@peer("Lock shared with a process", "multiprocessing.Lock", "ns")
def _():
    return acquire_and_release(multiprocessing.Lock())


@peer("Lock shared with a process", "free-threading Lock", "ns", package="freethreading")
def _():
    import freethreading

    return acquire_and_release(freethreading.Lock())


@peer("RLock shared with a process", "multiprocessing.RLock", "ns")
def _():
    return acquire_and_release(multiprocessing.RLock())


@peer("Semaphore shared with a process", "multiprocessing.Semaphore", "ns")
def _():
    return acquire_and_release(multiprocessing.Semaphore())


# Queues.

ITEM = b"7" * 64
ITEMS = size(20_000, 2_000)


def take_items(items, orders, taken):
    """The other process: takes as many items as it is ordered to, until the order is 0."""
    while count := orders.get():
        for _ in range(count):
            items.get()
        taken.put(count)


def to_a_process(items):
    orders, taken = multiprocessing.SimpleQueue(), multiprocessing.SimpleQueue()
    arguments = (items, orders, taken)
    multiprocessing.Process(target=take_items, args=arguments, daemon=True).start()

    def sample():
        begin = time.perf_counter()
        orders.put(ITEMS)
        for _ in range(ITEMS):
            items.put(ITEM)
        taken.get()
        return ITEMS / (time.perf_counter() - begin) / 1e6

    return sample


QUEUE = "Queue to a process, 64-byte items"


@peer(QUEUE, "multiprocessing.Queue", "M/s")
def _():
    return to_a_process(multiprocessing.Queue())


@peer(QUEUE, "multiprocessing.SimpleQueue", "M/s")
def _():
    return to_a_process(multiprocessing.SimpleQueue())


def put_and_get(items):
    def sample():
        return timed(lambda: (items.put(7), items.get()), ITEMS) * 1e9

    return sample


@peer("Queue, put + get, uncontended", "queue.Queue", "ns")
def _():
    return put_and_get(queue.Queue())


@peer("Queue, put + get, uncontended", "queue.SimpleQueue", "ns")
def _():
    return put_and_get(queue.SimpleQueue())


@peer("Queue shared with a process, put + get", "multiprocessing.Queue", "ns")
def _():
    return put_and_get(multiprocessing.Queue())


# Pools. Those of the standard library start processes with fork here.


def loky_executor(workers):
    import loky

    return loky.get_reusable_executor(max_workers=workers, timeout=None)


def ours_executor(workers):
    import freethreading

    return freethreading.WorkerPoolExecutor(max_workers=workers)


def fork():
    return multiprocessing.get_context("fork")


def process_executor(workers):
    return futures.ProcessPoolExecutor(workers, mp_context=fork())


PROCESS_EXECUTORS = [
    ("ProcessPoolExecutor", process_executor, None),
    ("loky", loky_executor, "loky"),
    ("free-threading WorkerPoolExecutor", ours_executor, "freethreading"),
]

TRIPS = size(300, 50)


def round_trips(case, cores, name, unit_executor, package):
    @peer(case, name, "us", cores, package)
    def _():
        executor = unit_executor(1)
        executor.submit(noop).result()
        return lambda: timed(lambda: executor.submit(noop).result(), TRIPS) * 1e6


for case, cores in (
    ("process round trip, blocking", 1),
    ("process round trip, blocking, free placement", 2),
):
    for name, start, package in PROCESS_EXECUTORS:
        round_trips(case, cores, name, start, package)

    @peer(case, "multiprocessing.Pool", "us", cores)
    def _():
        pool = fork().Pool(1)
        return lambda: timed(lambda: pool.apply(noop), TRIPS) * 1e6


for case, cores in (
    ("thread round trip, blocking", 1),
    ("thread round trip, blocking, free placement", 2),
):
    round_trips(case, cores, "ThreadPoolExecutor", futures.ThreadPoolExecutor, None)

MAPPED = size(1_000_000, 200_000)
# Where each is a chunk, fewer must do.
SINGLES = size(5_000, 1_000)


def whole_map(pool):
    return lambda: timed(lambda: list(pool.map(square, range(MAPPED)))) * 1e3


def scaled_map(pool):
    def sample():
        seconds = timed(lambda: list(pool.map(square, range(SINGLES))))
        return seconds * 1e3 * MAPPED / SINGLES

    return sample


MAP = "pool map x*x over 1,000,000, "


@peer(MAP + "threads", "multiprocessing.pool.ThreadPool", "ms")
def _():
    return whole_map(multiprocessing.pool.ThreadPool(2))


@peer(MAP + "threads", "ThreadPoolExecutor, scaled up", "ms")
def _():
    return scaled_map(futures.ThreadPoolExecutor(2))


@peer(MAP + "processes", "multiprocessing.Pool", "ms")
def _():
    return whole_map(fork().Pool(2))


@peer(MAP + "processes", "free-threading WorkerPool", "ms", package="freethreading")
def _():
    import freethreading

    return whole_map(freethreading.WorkerPool(2))


def executor_map(name, start, package):
    @peer(MAP + "processes", name + ", scaled up", "ms", package=package)
    def _():
        return scaled_map(start(2))


for name, start, package in PROCESS_EXECUTORS:
    executor_map(name, start, package)

# Large payloads.

PAYLOAD = size(64 << 20, 40 << 20)


def there_and_back(name, start, package):
    @peer("64 MiB of bytes (serde_bytes), there and back", name, "GiB/s", package=package)
    def _():
        executor, payload = start(1), bytes(PAYLOAD)

        def sample():
            seconds = timed(lambda: executor.submit(echo, payload).result())
            return 2 * PAYLOAD / (1 << 30) / seconds

        return sample


for name, start, package in PROCESS_EXECUTORS:
    there_and_back(name, start, package)

# Starts.

STARTS = size(3, 1)


def first_result(name, start, package):
    @peer("process start, one result, shutdown, executor", name, "us", 1, package)
    def _():
        def once():
            executor = start(1)
            executor.submit(noop).result()
            executor.shutdown(wait=True)

        return lambda: timed(once, STARTS) * 1e6


for method in ("fork", "forkserver", "spawn"):
    context = multiprocessing.get_context(method)

    def start_executor(workers, context=context):
        return futures.ProcessPoolExecutor(workers, mp_context=context)

    first_result(f"ProcessPoolExecutor, {method}", start_executor, None)

    @peer("process start + join, Worker", f"multiprocessing.Process, {method}", "us", 1)
    def _(context=context):
        def once():
            process = context.Process(target=noop)
            process.start()
            process.join()

        return lambda: timed(once, STARTS) * 1e6


for name, start, package in PROCESS_EXECUTORS[1:]:
    first_result(name, start, package)


@peer("thread start + join", "threading.Thread", "us", 1)
def _():
    def once():
        thread = threading.Thread(target=noop)
        thread.start()
        thread.join()

    return lambda: timed(once, TRIPS) * 1e6


def measure(index):
    case, name, unit, cores, _, prepare = PEERS[index]
    if cores == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    sample = prepare()
    sample()  # The first time is always another matter.
    samples = [sample() for _ in range(SAMPLES)]
    figure = statistics.median(samples)
    slowest = min(samples) / figure if unit in RATES else figure / max(samples)
    line = dict(case=case, peer=name, unit=unit, figure=figure, slowest=slowest)
    print(json.dumps(line), flush=True)


def run(index):
    """The figure of a peer, from a process of its own, of which nothing is left."""
    command = [sys.executable, __file__, "--peer", str(index)]
    command += ["--quick"] if QUICK else []
    # Files: other processes than this one may keep a pipe open. What is said at the end, by pools that are
    # left as they are, is of interest where there is no figure.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command, stdout=output, stderr=errors, start_new_session=True
        )
        try:
            child.wait(size(120, 30))
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()
        output.seek(0)
        errors.seek(0)
        try:
            return json.load(output)
        except json.JSONDecodeError:
            sys.stderr.buffer.write(errors.read())
            raise


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filter", default="", help="only cases whose names contain it")
    parser.add_argument("--quick", action="store_true", help="few and small samples")
    parser.add_argument("--peer", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer is not None:
        return measure(options.peer)
    lines, missing = [], set()
    for index, (case, name, _, _, package, _) in enumerate(PEERS):
        if options.filter not in case:
            continue
        if package and not importlib.util.find_spec(package):
            missing.add({"freethreading": "free-threading"}.get(package, package))
            continue
        try:
            lines.append(run(index))
        except json.JSONDecodeError:
            print(f"python_peers: {name} failed at '{case}'", file=sys.stderr)
    if missing:
        packages = " ".join(sorted(missing))
        print(
            f"python_peers: to have more peers, python3 -m pip install {packages}",
            file=sys.stderr,
        )
    print(json.dumps(lines, indent=1))


if __name__ == "__main__":
    main()
