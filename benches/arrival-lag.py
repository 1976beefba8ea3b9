#!/usr/bin/env python3
"""Measures how long after its arrival in a watched store a binary is an object in S3, and prints the figures.

usage: benches/arrival-lag.py [--rate 100] [--seconds 60] [--store 10000] [--point-every 20s] [--round-trip 30ms]
       [--profile release] [--dir DIR] [--image 16G] [--scan]

Binaries arrive as ModeShape adds them: a temporary file elsewhere, the directories, a rename. The time of the rename is
compared with that at which the server, the in-memory S3 of the tests as a process of its own (examples/s3-memory.rs),
has the object. `holdfast serve` watches; everything runs on this machine. The store has binaries of some bytes before,
made by several processes (benches/tree.c); 1,000,000 take 8 GB of an ext4, or `--image`, as root, a new one in a sparse file.

`--round-trip` puts the server that far away once the store is copied: in a network namespace, by netem or, where the kernel has
none, by a TUN device whose other end keeps each packet (benches/distance.py); a connection then takes as long as with a real
distance. That needs root; for others the server does each request so much later, and a new connection costs nothing.

`--scan` asks for a scan of everything when a quarter of them has arrived.
"""
import argparse, hashlib, http.client, importlib.util, json, os, random, signal, socket, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)


def beside(name):
    spec = importlib.util.spec_from_file_location(name, os.path.join(HERE, name + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


trees, distances = beside("tree"), beside("distance")


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


def status_of(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/status")
    return json.loads(connection.getresponse().read())


def milliseconds(text):
    if not text.endswith("ms"):
        raise argparse.ArgumentTypeError("write it as 30ms")
    return float(text[:-2])


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
    parser.add_argument("--round-trip", type=milliseconds, default=0, metavar="MS", help="to the server and back, such as 30ms")
    parser.add_argument("--image", metavar="SIZE", help="a new ext4 of this size for the store, such as 16G; needs root")
    parser.add_argument("--scan", action="store_true", help="a scan of everything falls into that time")
    arguments = parser.parse_args()
    trees.stop_on_signals()
    built = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), arguments.profile)
    images = trees.Images(arguments.dir) if arguments.image else None
    home = images.mount(trees.quantity(arguments.image), arguments.store * 9 // 4 + 1_000_000) if images else arguments.dir
    directory = tempfile.mkdtemp(prefix="holdfast-lag-", dir=home)
    processes, distance, late = [], None, []
    try:
        if arguments.round_trip and os.geteuid() == 0:
            distance = distances.Distance()
        elif arguments.round_trip:
            late = ["--delay", f"{arguments.round_trip:.0f}"]
        store, puts = os.path.join(directory, "store"), os.path.join(directory, "puts")
        for name in ("store", "temporary"):
            os.mkdir(os.path.join(directory, name))
        rng, began = random.Random(1), time.monotonic()
        _, directories = trees.make_store(trees.program(directory), store, arguments.store)
        print(f"{arguments.store:,} binaries made in {time.monotonic() - began:.0f} s", file=sys.stderr)
        server = subprocess.Popen(
            [os.path.join(built, "examples", "s3-memory"), "--port", "0", "--access-key", "AK", "--secret-key", "SK",
             "--drop-bodies", "binaries/", "--puts", puts, *late], stdout=subprocess.PIPE, text=True,
            preexec_fn=trees.die_with_parent)
        processes.append(server)
        endpoint = server.stdout.readline().split()[2]
        if distance:
            endpoint = endpoint.replace("127.0.0.1", distance.host)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for name, key in (("access", "AK"), ("secret", "SK")):
            with open(os.open(os.path.join(directory, name), os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(key)
        with open(os.path.join(directory, "holdfast.toml"), "w") as file:
            file.write(f"""[service]
state_dir = "state"
listen = "127.0.0.1:{port}"
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
                                   stderr=open(log, "w"), preexec_fn=trees.die_with_parent)
        processes.append(service)
        said = lambda: open(log).read()
        began = time.monotonic()

        def watches():
            if "watching" in said():
                return True
            watch = status_of(port)["jobs"][0]["watch"] if "ready" in said() else None
            if watch and watch["state"] == "by-schedule":
                sys.exit(f"the store is not watched: {watch['reason']}")

        wait_for("the store is watched", watches, 1200)
        watched = time.monotonic() - began
        wait_for("the first copy has ended", lambda: "(copy.binaries, change) succeeded" in said(), 7200)
        first = time.monotonic() - began
        # One that does not say how knows inotify alone.
        way = status_of(port)["jobs"][0]["watch"].get("way", "inotify") or "not told"
        if distance:
            distance.set(arguments.round_trip / 1000)
            time.sleep(1)
            began = time.monotonic()
            socket.create_connection((distance.host, int(endpoint.rsplit(":", 1)[1]))).close()
            connecting = time.monotonic() - began
        arrived, before, scan = {}, os.path.getsize(puts), None
        start = time.monotonic()
        for number in range(arguments.rate * arguments.seconds):
            body = content(number, "arrives", rng)
            late = start + number / arguments.rate - time.monotonic()
            if late > 0:
                time.sleep(late)
            name, at = add(directory, store, body)
            arrived[name] = at
            if arguments.scan and scan is None and number * 4 >= arguments.rate * arguments.seconds:
                scan = subprocess.Popen([os.path.join(built, "holdfast"), "--config", os.path.join(directory, "holdfast.toml"),
                                         "run", "copy.binaries", "--scan"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                        text=True, preexec_fn=trees.die_with_parent)
                processes.append(scan)
        took = time.monotonic() - start

        def there():
            with open(puts) as file:
                file.seek(before)
                lines = [line.split() for line in file if line.endswith("\n")]
            found = {key.rsplit("/", 1)[1]: float(at) for at, key in lines if "/binaries/" in key}
            return found if found.keys() >= arrived.keys() else None

        found = wait_for("every binary is an object", there, 120)
        lags = sorted(found[name] - at for name, at in arrived.items())
        quantile = lambda part: lags[min(len(lags) - 1, int(part * len(lags)))]
        print(f"{len(lags)} binaries in {took:.1f} s ({len(lags) / took:.0f} a second) into a store of "
              f"{arguments.store:,} in {directories:,} directories, {arguments.profile} build:")
        print(f"lag p50 {quantile(.5):.3f} s, p90 {quantile(.9):.3f} s, p99 {quantile(.99):.3f} s, most {lags[-1]:.3f} s")
        how = f"by {distance.how}; a connection takes {connecting * 1000:.1f} ms" if distance else "by a server that is so late with each answer"
        print(f"round trip {arguments.round_trip:g} ms {how}" if arguments.round_trip else "no round trip but that of the machine")
        print(f"{way}, set up in {watched:.1f} s; the store was copied and scanned after {first:.1f} s")
        if scan:
            scan.communicate(timeout=600)
            print("meanwhile:", next(line for line in said().splitlines() if "(copy.binaries, request)" in line))
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
        if distance:
            distance.end()
        if images:
            images.unmount()
        else:
            subprocess.run(["rm", "-rf", directory])


main()
