"""The cases. Each is a function that takes a `Lab`, returns what it counted, and raises what went wrong."""

import difflib
import pathlib
import re
import shutil

from suite import databases
from suite import holdfast
from suite.fedora import Fedora
from suite.holdfast import Holdfast
from suite.modeshape import Ended
from suite.modeshape import Repository
from suite.modeshape import Writer

POSTGRES = databases.Postgres
MARIADB = databases.MariaDb


class Different(Exception):
    """What came back is not what was there."""


class Lab:
    """What a case works with: a directory of its own, and servers that all cases share."""

    def __init__(self, directory, stack, servers, seconds):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir()
        self.directory.chmod(0o755)
        self.stack = stack
        self.servers = servers
        self.seconds = seconds

    def server(self, kind):
        """The server that all cases share."""
        if kind not in self.servers:
            self.servers[kind] = self.stack.enter_context(databases.running(kind, self.directory.parent / f"server-{kind.account}"))
        return self.servers[kind]

    def repository(self, kind, name, **more):
        repository = Repository(self.server(kind), name, self.directory, **more)
        repository.binaries.mkdir()
        return repository

    def holdfast(self, name="holdfast"):
        return Holdfast(self.directory / name)


def same(before, after):
    """Raises with the first lines that differ."""
    if before == after:
        return
    lines = [line for line in difflib.unified_diff(before, after, "before", "after", n=0, lineterm="") if not line.startswith("@@")]
    raise Different(f"{len(lines)} lines differ:\n" + "\n".join(line[:300] for line in lines[:20]))


def counted(counts):
    return "{nodes} nodes, {properties} properties, {binaries} binaries".format(**counts)


def compare(before, repository):
    """Opens a repository with ModeShape and compares all of it with what `dump` said before."""
    lines, counts = repository.dump()
    same(before[0], lines)
    return counted(counts)


# ModeShape by itself: what must be equal at least, and what its own backup changes.


def modeshape_by_itself(lab, kind):
    """ModeShape backs up and restores."""
    first = lab.repository(kind, "first")
    first.write(1)
    before = first.dump()
    second = lab.repository(kind, "second")
    second.restore(first.backup(lab.directory / "backup"))
    return compare(before, second)


def modeshape_with_odd_values(lab):
    """ModeShape backs up and restores values that its backup does not hold: shows what becomes of them."""
    first = lab.repository(POSTGRES, "first")
    first.write(1, "odd")
    before = first.dump()
    second = lab.repository(POSTGRES, "second")
    second.restore(first.backup(lab.directory / "backup"))
    after = second.dump()
    lines = [line for line in difflib.unified_diff(before[0], after[0], n=0, lineterm="") if re.match("[-+][^-+]", line)]
    return "ModeShape changed:\n" + "\n".join("    " + line[:160] for line in lines)


def modeshape_under_load(lab):
    """ModeShape backs up while it is written to: shows whether it can restore that."""
    first = lab.repository(POSTGRES, "first")
    first.run("hot-backup", lab.directory / "backup", min(lab.seconds, 20))
    second = lab.repository(POSTGRES, "second")
    try:
        second.restore(lab.directory / "backup")
    except RuntimeError as error:
        causes = [line for line in str(error).splitlines() if line.startswith("problem: ")]
        return f"ModeShape did not restore its own backup: {causes[-1].removeprefix('problem: ')[:200]}"
    try:
        return "ModeShape restored its own backup: " + ", ".join(second.run("check-invariants").split("\n")[-4:-1])
    except RuntimeError as error:
        return "ModeShape restored its own backup, in pieces:\n" + "\n".join("    " + line[:160] for line in str(error).splitlines()[1:6])


# Documents from a directory that ModeShape wrote.


def backup_of_modeshape(lab):
    """A backup made by ModeShape goes through Holdfast, as an archive and as a restore point, and ModeShape restores it."""
    first = lab.repository(POSTGRES, "first")
    first.write(2)
    before = first.dump()
    backup = first.backup(lab.directory / "backup")
    tool = lab.holdfast().configure(main=(first.binaries, holdfast.directory(backup)))
    from_archive = lab.repository(POSTGRES, "second")
    from_archive.restore(tool.unpacked(tool.backup()["result"]))
    compare(before, from_archive)
    tool.restore_to(tool.copy()["result"], lab.directory / "restored")
    from_point = Repository(first.server, "third", lab.directory)
    shutil.move(lab.directory / "restored" / "binaries", from_point.binaries)
    from_point.restore(lab.directory / "restored" / "documents")
    return compare(before, from_point)


# Documents from a database.


def database_to_database(lab, source, target, compress=False, more=()):
    """Holdfast backs up a database, and restores it into an empty one, as an archive and as a restore point."""
    first = lab.repository(source, "first", compress=compress)
    first.write(3, *more)
    before = first.dump()
    second = lab.repository(target, "second")
    third = lab.repository(target, "third")
    tool = lab.holdfast().configure(**{each.database: (each.binaries, holdfast.database(each)) for each in (first, second, third)})
    tool.restore(tool.backup("first")["result"], "second")
    compare(before, second)
    tool.restore(tool.copy("first")["result"], "third")
    return compare(before, third)


def modeshape_to_holdfast(lab, kind):
    """A backup made by ModeShape is restored by Holdfast into an empty database."""
    first = lab.repository(kind, "first")
    first.write(4)
    before = first.dump()
    second = lab.repository(kind, "second")
    backup = first.backup(lab.directory / "backup")
    tool = lab.holdfast().configure(main=(first.binaries, holdfast.directory(backup)), second=(second.binaries, holdfast.database(second)))
    tool.restore(tool.backup()["result"], "second")
    return compare(before, second)


def holdfast_to_modeshape(lab, kind):
    """A backup made by Holdfast of a database is restored by ModeShape."""
    first = lab.repository(kind, "first")
    first.write(5)
    before = first.dump()
    second = lab.repository(kind, "second")
    tool = lab.holdfast().configure(main=(first.binaries, holdfast.database(first)))
    second.restore(tool.unpacked(tool.backup()["result"]))
    return compare(before, second)


def under_load(lab, kind):
    """Holdfast backs up while ModeShape writes at full rate; each backup is of one moment, and restorable."""
    first = lab.repository(kind, "first")
    tool = lab.holdfast()
    second = lab.repository(kind, "second")
    tool.configure(main=(first.binaries, holdfast.database(first)), second=(second.binaries, holdfast.database(second)))
    writer = Writer(first, lab.seconds, lab.directory / "writer.log")
    taken = []
    try:
        before = writer.committed(least=50)
        while True:
            run = tool.backup() if len(taken) % 2 == 0 else tool.copy()
            after = writer.committed()
            taken.append((before, run["result"], after))
            before = after
    except Ended:
        writer.wait()
    finally:
        writer.stop()
    checked = []
    for before, name, after in taken:
        server = second.server
        server.drop(second.database)
        server.create(second.database)
        shutil.rmtree(second.binaries)
        second.binaries.mkdir()
        tool.restore(name, "second")
        said = second.run("check-invariants")
        counts = [int(count) for count in re.search(r"counts \[(.*)\]", said)[1].split(",")]
        # What was committed before the backup began is in it, and nothing that came after its end.
        for low, count, high in zip(before, counts, after):
            if not low <= count <= high:
                raise Different(f"{name} has count {count}, which was {low} before it and {high} after it")
        checked.append(f"{name}: counts {counts}, {re.search('pairs .*', said)[0]}")
    if len(checked) < 3:
        raise Different(f"only {len(checked)} backups were taken")
    return f"{len(checked)} backups, all whole\n" + "\n".join("    " + line for line in checked)


# A whole Fedora.


class Installation:
    """A Fedora in a database of its own server, or embedded, that can be wiped."""

    def __init__(self, lab, version, kind):
        self.lab = lab
        self.version = version
        self.server = kind and lab.server(kind)
        self.database = "fcrepo"
        self.fedora = Fedora(version, lab.directory / "fedora", self.server)
        self.binaries = self.fedora.binaries
        self.wipe()

    @property
    def url(self):
        return self.server.url(self.database)

    def wipe(self):
        """An empty database, and no home: what is there after a disk was lost."""
        if self.server:
            self.server.drop(self.database)
            self.server.create(self.database)
        shutil.rmtree(self.fedora.home / "data", ignore_errors=True)
        self.binaries.mkdir(parents=True)

    def compare(self, before):
        """Starts it and compares all that can be read over REST."""
        with self.fedora:
            lines, objects, files = self.fedora.dump()
        same(before, lines)
        return f"{objects} objects, {files} files, {len(lines) - files} triples"


def fedora_by_itself(lab, version, kind):
    """Fedora's own two calls, and an archive made by Holdfast of what fcr:backup wrote, restored by fcr:restore."""
    installation = Installation(lab, version, kind)
    fedora = installation.fedora
    own = lab.directory / "own"
    own.mkdir()
    with fedora:
        fedora.fill()
        before = fedora.dump()[0]
        fedora.backup(own)
        # With the binaries as they lie, which is what Holdfast reads.
        tool = lab.holdfast().configure(main=(installation.binaries, holdfast.directory(own)))
        unpacked = tool.unpacked(tool.backup()["result"])
    installation.wipe()
    with fedora:
        fedora.restore(own)
    installation.compare(before)
    installation.wipe()
    with fedora:
        fedora.restore(unpacked)
    return installation.compare(before)


def fedora_in_a_database(lab, version, kind):
    """Holdfast backs up a running Fedora; all of it is lost; Holdfast brings it back, or Fedora from Holdfast's archive."""
    installation = Installation(lab, version, kind)
    fedora = installation.fedora
    tool = lab.holdfast().configure(main=(installation.binaries, holdfast.database(installation)))
    with fedora:
        fedora.fill()
        before = fedora.dump()[0]
        archive = tool.backup()["result"]
        point = tool.copy()["result"]
    for name in (archive, point):
        installation.wipe()
        tool.restore(name)
        installation.compare(before)
    installation.wipe()
    with fedora:
        fedora.restore(tool.unpacked(archive))
    return installation.compare(before)
