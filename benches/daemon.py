#!/usr/bin/env python3
"""Measures the running service, and prints the table of docs/benchmarks.md: what it costs when nothing happens, how long
a start takes with a large index, and how long `GET /status` takes while a copy runs at full speed.

usage: benches/daemon.py [--indexed 1000000] [--files 20000] [--idle 60] [--dir DIR]

Everything runs on this machine, against the in-memory S3 of the tests as a process of its own
(examples/s3-memory.rs).
"""
import argparse, http.client, importlib.util, json, os, shutil, signal, socket, sqlite3, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
spec = importlib.util.spec_from_file_location("against_others", os.path.join(HERE, "against-others.py"))
others = importlib.util.module_from_spec(spec)
spec.loader.exec_module(others)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Service:
    """A `holdfast serve` of our own, with a socket on which it says that it is ready."""

    def __init__(self, directory, config, port):
        self.port = port
        notices = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = os.path.join(directory, "notify")
        if os.path.exists(path):
            os.unlink(path)
        notices.bind(path)
        notices.settimeout(120)
        began = time.monotonic()
        self.log = open(os.path.join(directory, "service.log"), "w")
        self.process = subprocess.Popen([os.path.join(others.RELEASE, "holdfast"), "--config", config, "serve"],
                                        stderr=self.log, env={**os.environ, **others.KEYS, "NOTIFY_SOCKET": path})
        while b"READY=1" not in notices.recv(4096):
            pass
        self.ready_after = time.monotonic() - began
        notices.close()

    def memory(self):
        """Resident memory now and at its highest, in MiB."""
        lines = dict(line.split(":", 1) for line in open(f"/proc/{self.process.pid}/status") if ":" in line)
        return [int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")]

    def sleeps(self):
        """How often each of its threads has gone to sleep so far, which is how often it was woken."""
        counts = {}
        for thread in os.listdir(f"/proc/{self.process.pid}/task"):
            for line in open(f"/proc/{self.process.pid}/task/{thread}/status"):
                if line.startswith("voluntary_ctxt_switches"):
                    counts[thread] = int(line.split()[1])
        return counts

    def wakeups(self, seconds):
        """How often its threads are woken in that time; looked at each second, since threads come and go."""
        woken, before = 0, self.sleeps()
        for _ in range(seconds):
            time.sleep(1)
            now = self.sleeps()
            woken += sum(count - before.get(thread, 0) for thread, count in now.items())
            before = now
        return woken

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()


def configure(directory, store, server, port, more=""):
    config = os.path.join(directory, "holdfast.toml")
    with open(config, "w") as file:
        file.write(f'service.state_dir = "{directory}/state"\nservice.listen = "127.0.0.1:{port}"\n'
                   f'[repository.main]\nbinaries = "{store}"\n[destination.s3]\nurl = "s3://holdfast/prefix"\n'
                   f'endpoint = "{server.endpoint}"\n[copy.main]\n{more}')
    return config


def idle(directory, server, seconds):
    """A store of a few binaries, watched, with a schedule that does not come due meanwhile."""
    store = os.path.join(directory, "few")
    others.make_store(store, 100, seed=2)
    port = free_port()
    config = configure(directory, store, server, port, 'watch = true\nschedule = "@yearly"\n[backup.main]\nschedule = "@yearly"\n')
    with Service(directory, config, port) as service:
        time.sleep(10)  # the first scan
        woken = service.wakeups(seconds) / seconds
        return woken, service.memory(), service.ready_after


def ready(directory, server, indexed):
    """A start with an index of so many binaries."""
    ledger = sqlite3.connect(os.path.join(directory, "state", "ledger.db"))
    digests = ((1, os.urandom(20), 4096) for _ in range(indexed))
    ledger.execute("DELETE FROM objects")
    ledger.executemany("INSERT INTO objects (destination, digest, size) VALUES (?, ?, ?)", digests)
    ledger.execute("DELETE FROM members")
    ledger.execute("INSERT INTO members SELECT 1, digest, size FROM objects")
    ledger.commit()
    ledger.close()
    port = free_port()
    size = os.path.getsize(os.path.join(directory, "state", "ledger.db"))
    config = configure(directory, os.path.join(directory, "few"), server, port)
    with Service(directory, config, port) as service:
        return service.ready_after, size


def status_under_load(directory, server, files):
    """GET /status, asked every 5 ms on one connection, from the first to the last moment of a copy."""
    store = os.path.join(directory, "many")
    others.make_store(store, files)
    shutil.rmtree(os.path.join(directory, "state"))
    port = free_port()
    config, times = configure(directory, store, server, port), []
    with Service(directory, config, port) as service:
        run = subprocess.Popen([os.path.join(others.RELEASE, "holdfast"), "--config", config, "run", "copy.main", "--json"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, **others.KEYS})
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while run.poll() is None:
            began = time.monotonic()
            connection.request("GET", "/status")
            status = json.loads(connection.getresponse().read())
            if status["running"]:
                times.append(time.monotonic() - began)
            time.sleep(0.005)
        ended = json.loads(run.stdout.read())
        assert ended["outcome"] == "succeeded" and ended["counts"]["copied"] == files, ended
        memory = service.memory()
    times.sort()
    return [times[int(len(times) * share)] * 1000 for share in (0.5, 0.99)] + [times[-1] * 1000], len(times), memory


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--indexed", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--idle", type=int, default=60)
    parser.add_argument("--dir", default=None, help="where the files go; a temporary directory by default")
    arguments = parser.parse_args()
    subprocess.run(["cargo", "build", "--release", "--bins", "--examples"], cwd=ROOT, check=True)
    directory = tempfile.mkdtemp(dir=arguments.dir)
    server = others.Server("--drop-bodies=/binaries/")
    try:
        print("| what | figure |\n|---|---:|", flush=True)
        woken, (resident, highest), after = idle(directory, server, arguments.idle)
        print(f"| idle: wake-ups a second, all threads | {woken:.2f} |")
        print(f"| idle: memory, MiB (highest so far) | {resident:.0f} ({highest:.0f}) |")
        print(f"| ready after, small ledger | {after * 1000:.0f} ms |", flush=True)
        after, size = ready(directory, server, arguments.indexed)
        print(f"| ready after, {arguments.indexed:,} binaries in the index ({size / 2**20:.0f} MiB) | {after * 1000:.0f} ms |", flush=True)
        (median, p99, worst), asked, (_, highest) = status_under_load(directory, server, arguments.files)
        print(f"| `GET /status` during a copy of {arguments.files:,}: p50, p99, longest of {asked:,} | "
              f"{median:.1f}, {p99:.1f}, {worst:.1f} ms |")
        print(f"| memory during that copy, MiB | {highest:.0f} |", flush=True)
    finally:
        server.stop()
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
