"""The real ModeShape: `lab/`, run with Java."""

import pathlib
import re
import subprocess
import threading

from suite import build


class Repository:
    """A ModeShape repository: a database on a server, and a directory of binaries."""

    def __init__(self, server, database, directory, compress=False):
        self.server = server
        self.database = database
        self.binaries = pathlib.Path(directory) / f"{database}-binaries"
        self.compress = compress
        server.drop(database)
        server.create(database)

    @property
    def url(self):
        """For Holdfast."""
        return self.server.url(self.database)

    def command(self, *words):
        options = [*build.BRIEF, "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", f"-Dlab.user={self.server.user}", f"-Dlab.compress={str(self.compress).lower()}"]
        subcommand, *rest = map(str, words)
        place = [self.server.jdbc(self.database)] + ([] if subcommand == "rows" else [str(self.binaries)])
        return [build.program("java", "openjdk-17-jdk-headless"), *options, "-cp", build.lab(), "lab.ModeShapeLab", subcommand, *place, *rest]

    def run(self, *words, status=0):
        """What a command of the lab prints."""
        done = subprocess.run(self.command(*words), capture_output=True, text=True, timeout=1200)
        if done.returncode != status:
            raise RuntimeError(f"the lab's {words[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout

    def write(self, seed=1, *more):
        self.run("write", seed, *more)

    def dump(self):
        """The lines, and the counts by what they count."""
        lines = self.run("dump").splitlines()
        counts = {name: int(number) for name, number in (line[2:].rsplit(" ", 1) for line in lines if line.startswith("# "))}
        return [line for line in lines if not line.startswith("# ")], counts

    def backup(self, directory):
        self.run("backup", directory)
        return pathlib.Path(directory)

    def restore(self, directory):
        self.run("restore", directory)


class Writer:
    """The lab's `write-forever`, going on by itself until told to end."""

    longest = 3600

    def __init__(self, repository, log):
        self.log = pathlib.Path(log)
        with open(log, "wb") as errors:
            self.process = subprocess.Popen(repository.command("write-forever", self.longest), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
        self.said = []
        self.changed = threading.Condition()
        self.follower = threading.Thread(target=self.follow, daemon=True)
        self.follower.start()

    def follow(self):
        for line in self.process.stdout:
            if line.startswith("committed"):
                with self.changed:
                    self.said.append([int(count) for count in re.findall(r"\d+", line)])
                    self.changed.notify_all()
        with self.changed:
            self.said.append(None)
            self.changed.notify_all()

    def committed(self, least=0):
        """How far each thread has committed by now or soon after: what is said next, and is at least `least` for all."""
        with self.changed:
            known = len(self.said)
            while True:
                new = self.said[known:]
                if None in self.said:
                    raise RuntimeError(f"the writer ended: {self.log.read_text()[-2000:]}")
                if new and min(new[-1]) >= least:
                    return new[-1]
                if not self.changed.wait(600):
                    raise RuntimeError("the writer says nothing any more")

    def end(self):
        self.process.stdin.close()
        status = self.process.wait(120)
        self.follower.join()
        if status != 0:
            raise RuntimeError(f"the writer ended with {status}: {self.log.read_text()[-2000:]}")

    def stop(self):
        self.process.kill()
        self.process.wait()
