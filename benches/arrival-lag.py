#!/usr/bin/env python3
"""Measures how long after its arrival in a watched store a binary is an object in S3, and prints the figures.

usage: benches/arrival-lag.py [--rate 100] [--seconds 60] [--store 10000] [--point-every 20s]
       [--profile release] [--dir DIR]

Binaries arrive as ModeShape adds them: a temporary file elsewhere, the directories, a rename. The time of the rename is
compared with that at which the server, the in-memory S3 of the tests as a process of its own (examples/s3-memory.rs),
has the object. `holdfast serve` watches; everything runs on this machine.
"""
import argparse, hashlib, os, random, shutil, signal, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)


def content(number, seed, rng):
    return f"{seed} {number} ".encode() + rng.randbytes(rng.randrange(4096, 48 << 10))


def add(directory, store, body):
    """Adds a binary; gives its name and when it was there."""
    name = hashlib.sha1(body).hexdigest()
    temporary = os.path.join(directory, "temporary", name)
    with open(temporary, "wb") as file:
        file.write(body)
    leaf = os.path.join(store, name[:2], name[2:4], name[4:6])
    os.makedirs(leaf, exist_ok=True)
    os.rename(temporary, os.path.join(leaf, name))
    return name, time.time()


def wait_for(what, holds, seconds):
    until = time.monotonic() + seconds
    while not (found := holds()):
        if time.monotonic() > until:
            sys.exit(f"waited {seconds} s in vain: {what}")
        time.sleep(0.2)
    return found


def memory(pid):
    with open(f"/proc/{pid}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return tuple(int(fields[field].split()[0]) / 1024 for field in ("VmRSS", "VmHWM"))


def switches(pid):
    """How often each thread has gone to sleep by itself."""
    counts = {}
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/status") as file:
            counts[task] = sum(int(line.split()[1]) for line in file if line.startswith("voluntary_ctxt"))
    return counts


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--store", type=int, default=10_000)
    parser.add_argument("--point-every", default="20s", help="so that some restore points are made meanwhile")
    parser.add_argument("--profile", default="release")
    parser.add_argument("--dir")
    parser.add_argument("--idle", type=int, default=30, help="seconds in which wake-ups are counted afterwards")
    arguments = parser.parse_args()
    built = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), arguments.profile)
    directory = tempfile.mkdtemp(prefix="holdfast-lag-", dir=arguments.dir)
    processes = []
    try:
        store, puts = os.path.join(directory, "store"), os.path.join(directory, "puts")
        for name in ("store", "temporary"):
            os.mkdir(os.path.join(directory, name))
        rng = random.Random(1)
        for number in range(arguments.store):
            add(directory, store, f"before {number}".encode())
        directories = sum(1 for _ in os.walk(store))
        server = subprocess.Popen(
            [os.path.join(built, "examples", "s3-memory"), "--port", "0", "--access-key", "AK", "--secret-key", "SK",
             "--drop-bodies", "binaries/", "--puts", puts], stdout=subprocess.PIPE, text=True)
        processes.append(server)
        endpoint = server.stdout.readline().split()[2]
        for name, key in (("access", "AK"), ("secret", "SK")):
            with open(os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(key)
        with open(os.path.join(directory, "holdfast.toml"), "w") as file:
            file.write(f"""[service]
state_dir = "state"
[repository.main]
binaries = "store"
[destination.s3]
url = "s3://holdfast/site"
endpoint = "{endpoint}"
credentials = {{ access_key_file = "access", secret_key_file = "secret" }}
[copy.binaries]
watch = true
point_every = "{arguments.point_every}"
""")
        log = os.path.join(directory, "journal")
        service = subprocess.Popen([os.path.join(built, "holdfast"), "serve", "--config", os.path.join(directory, "holdfast.toml")],
                                   stderr=open(log, "w"))
        processes.append(service)
        said = lambda: open(log).read()
        began = time.monotonic()
        wait_for("the store is watched", lambda: "watching" in said(), 600)
        watched = time.monotonic() - began
        wait_for("the first copy has ended", lambda: "(copy.binaries, change) succeeded" in said(), 1800)
        arrived = {}
        start = time.monotonic()
        for number in range(arguments.rate * arguments.seconds):
            body = content(number, "arrives", rng)
            late = start + number / arguments.rate - time.monotonic()
            if late > 0:
                time.sleep(late)
            name, at = add(directory, store, body)
            arrived[name] = at
        took = time.monotonic() - start

        def there():
            with open(puts) as file:
                lines = [line.split() for line in file if line.endswith("\n")]
            found = {key.rsplit("/", 1)[1]: float(at) for at, key in lines if "/binaries/" in key}
            return found if found.keys() >= arrived.keys() else None

        found = wait_for("every binary is an object", there, 120)
        lags = sorted(found[name] - at for name, at in arrived.items())
        quantile = lambda part: lags[min(len(lags) - 1, int(part * len(lags)))]
        print(f"{len(lags)} binaries in {took:.1f} s ({len(lags) / took:.0f} a second) into a store of "
              f"{arguments.store} in {directories} directories, {arguments.profile} build:")
        print(f"lag p50 {quantile(.5):.3f} s, p90 {quantile(.9):.3f} s, p99 {quantile(.99):.3f} s, most {lags[-1]:.3f} s")
        print(f"watches set in {watched:.1f} s")
        wait_for("the last run has ended", lambda: said().count("(copy.binaries, change)") >= 2 and "copied" in said().splitlines()[-1], 400)
        resident, peak = memory(service.pid)
        print(f"memory {resident:.0f} MiB, at most {peak:.0f} MiB")
        if arguments.idle:
            time.sleep(15)  # threads and connections that are not needed go
            first = switches(service.pid)
            time.sleep(arguments.idle)
            woken = sum(count - first.get(task, 0) for task, count in switches(service.pid).items())
            print(f"idle: {woken / arguments.idle:.2f} wake-ups a second")
        for line in said().splitlines():
            print("journal:", line)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            process.wait()
        shutil.rmtree(directory)


main()
