"""The cases. Each is a function that takes a `Lab`, returns what it counted, and raises what went wrong."""

import difflib
import pathlib
import random
import re
import shutil
import time

from suite import databases
from suite import holdfast
from suite.fedora import Fedora
from suite.holdfast import Holdfast
from suite.modeshape import Repository
from suite.modeshape import Writer
from suite.pages import Machine

POSTGRES = databases.Postgres
MARIADB = databases.MariaDb
# How many backups a case under load makes.
MOST_UNDER_LOAD = 18


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
    second = lab.repository(target, "second", compress=compress)
    third = lab.repository(target, "third")
    tool = lab.holdfast().configure(**{each.database: (each.binaries, holdfast.database(each)) for each in (first, second, third)})
    tool.restore(tool.backup("first")["result"], "second")
    if source == target:
        # The table that Holdfast made is the one that ModeShape makes.
        same(first.server.table("first").splitlines(), second.server.table("second").splitlines())
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


def every_direction(lab, kind):
    """From Holdfast to Holdfast, from Holdfast to ModeShape and from ModeShape to Holdfast, from one repository."""
    first = lab.repository(kind, "first")
    first.write(6)
    before = first.dump()
    there, back, by_modeshape, from_modeshape = (lab.repository(kind, name) for name in ("there", "back", "by_modeshape", "from_modeshape"))
    tool = lab.holdfast().configure(**{each.database: (each.binaries, holdfast.database(each)) for each in (first, there, back, from_modeshape)})
    # There, and from there back: what Holdfast wrote it reads again.
    tool.restore(tool.backup("first")["result"], "there")
    tool.restore(tool.copy("there")["result"], "back")
    compare(before, back)
    # A backup by Holdfast, restored by ModeShape.
    by_modeshape.restore(tool.unpacked(tool.backup("back")["result"]))
    compare(before, by_modeshape)
    # And one by ModeShape, restored by Holdfast.
    tool.restore(first.backup(lab.directory / "backup"), "from_modeshape")
    return compare(before, from_modeshape)


def under_load(lab, kind):
    """Holdfast backs up while ModeShape writes at full rate; each backup is of one moment, and restorable."""
    first = lab.repository(kind, "first")
    second = lab.repository(kind, "second")
    root = lab.directory / "root"
    root.mkdir()
    tool = lab.holdfast().configure(main=(first.binaries, holdfast.database(first)), second=(second.binaries, holdfast.database(second)))
    writer = Writer(first, lab.directory / "writer.log")
    taken = []
    try:
        with tool.service(root) as service:
            # In turn an archive, a restore point, and the directory of a fcr:backup.
            ways = [lambda: tool.backup()["result"], lambda: tool.copy()["result"], lambda: service.call("backup", "", 200)]
            start = before = writer.committed(least=50)
            began = time.monotonic()
            while len(taken) < len(ways) or time.monotonic() - began < lab.seconds:
                # Not more than can be opened one by one afterwards.
                time.sleep(max(0, began + len(taken) * lab.seconds / MOST_UNDER_LOAD - time.monotonic()))
                name = ways[len(taken) % len(ways)]()
                after = writer.committed()
                taken.append((before, name, after))
                before = after
            rate = (sum(after) - sum(start)) / (time.monotonic() - began)
        writer.end()
    finally:
        writer.stop()
    checked = []
    for before, name, after in taken:
        server = second.server
        server.drop(second.database)
        server.create(second.database)
        shutil.rmtree(second.binaries)
        second.binaries.mkdir()
        if "/" in name:
            second.restore(name)
            how = f"fcr:backup {pathlib.Path(name).name}, restored by ModeShape"
        else:
            tool.restore(name, "second")
            how = f"{name}, restored by Holdfast"
        said = second.run("check-invariants")
        counts = [int(count) for count in re.search(r"counts \[(.*)\]", said)[1].split(",")]
        # What was committed before the backup began is in it, and nothing that came after its end.
        for low, count, high in zip(before, counts, after):
            if not low <= count <= high:
                raise Different(f"{name} has count {count}, which was {low} before it and {high} after it")
        checked.append(f"{how}: counts {counts}, {re.search('pairs .*', said)[0]}")
    return f"{len(checked)} backups, all whole, at {rate:.0f} transactions a second\n" + "\n".join("    " + line for line in checked)


# A whole Fedora.


class Installation:
    """A Fedora in a database of its own server, or embedded, that can be wiped."""

    # What Fedora ships with.
    compress = False

    def __init__(self, lab, version, kind, user=None):
        self.lab = lab
        self.version = version
        self.server = kind and lab.server(kind)
        self.database = "fcrepo"
        self.user = user
        self.fedora = Fedora(version, lab.directory / "fedora", self.server, user)
        self.binaries = self.fedora.binaries
        if user and self.server:
            self.server.drop(self.database)
            self.server.admit(user, self.database)
        self.wipe()

    @property
    def url(self):
        return self.server.url(self.database, self.user)

    def wipe(self):
        """An empty database, and a home with nothing in it."""
        self.destroy()
        if self.server:
            self.server.create(self.database)
            if self.user:
                self.server.give(self.database, self.user)
        self.binaries.mkdir(parents=True)

    def destroy(self):
        """Neither a database nor a home: what is there after the machine was lost."""
        if self.server:
            self.server.drop(self.database)
        shutil.rmtree(self.fedora.home / "data", ignore_errors=True)

    def marked(self):
        """The binaries that Fedora is going to delete, as nothing uses them."""
        return {path.name for path in (self.binaries / "trash").rglob("*") if path.is_file()}

    def compare(self, before):
        """Starts it and compares all that can be read over REST."""
        with self.fedora:
            return self.compare_running(before)

    def compare_running(self, before):
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
        installation.compare_running(before)
    installation.wipe()
    with fedora:
        fedora.restore(unpacked)
    return installation.compare(before)


def fedora_in_short(lab, version, kind):
    """Holdfast backs up a running Fedora; all of it is lost; Holdfast brings it back from a restore point."""
    installation = Installation(lab, version, kind)
    tool = lab.holdfast().configure(main=(installation.binaries, holdfast.database(installation)))
    with installation.fedora as fedora:
        fedora.fill()
        before = fedora.dump()[0]
        point = tool.copy()["result"]
    installation.wipe()
    tool.restore(point)
    with installation.fedora as fedora:
        said = installation.compare_running(before)
        # It can be written to, as before.
        fedora.describe("/c0/later", random.Random(2))
        fedora.request("PUT", "/c0/later/file", b"later" * 2_000, {"Content-Type": "text/plain"})
        fedora.request("DELETE", "/c1")
        after = fedora.dump()[0]
    installation.compare(after)
    return said


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
        # Fedora has other documents by now, which a restore beside it is not to replace.
        fedora.describe("/after", random.Random(2))
        tool.refused(point, "connect")
    for name in (archive, point):
        installation.wipe()
        tool.restore(name)
        installation.compare(before)
    installation.wipe()
    with fedora:
        fedora.restore(tool.unpacked(archive))
        return installation.compare_running(before)


def fedora_calls(lab, version, kind):
    """Holdfast's fcr:backup goes into Fedora's fcr:restore, and Fedora's into Holdfast's, by the call and by the command."""
    installation = Installation(lab, version, kind)
    fedora = installation.fedora
    root = lab.directory / "root"
    own, ours = root / "own", root / "ours"
    for directory in (own, ours):
        directory.mkdir(parents=True)
    tool = lab.holdfast().configure(main=(installation.binaries, holdfast.database(installation)))
    with tool.service(root) as service:
        with fedora:
            fedora.fill()
            before = fedora.dump()[0]
            fedora.backup(own)
            service.call("backup", ours, 401, login=("ada@example.org", "another password"))
            service.call("backup", lab.directory, 403)
            if service.call("backup", ours, 200) != str(ours):
                raise Different("fcr:backup did not say the directory that it was given")
            # Once more: an older backup is replaced.
            service.call("backup", ours, 200)
            made = pathlib.Path(service.call("backup", "", 200))
            if made.parent != root:
                raise Different(f"fcr:backup without a directory wrote {made}, which is not in {root}")
        installation.wipe()
        with fedora:
            fedora.restore(made)
        with fedora:
            installation.compare_running(before)
            # What came after the backup is gone when that is restored.
            fedora.describe("/later", random.Random(2))
            fedora.request("PUT", "/later/file", b"later" * 2_000, {"Content-Type": "text/plain"})
            fedora.request("DELETE", "/c1")
            if fedora.dump()[0] == before:
                raise Different("what was written later does not show")
            # Fedora runs: its connections are seen.
            said = service.call("restore", own, 500)
            if "connect" not in said:
                raise Different(f"fcr:restore beside a running Fedora was refused with another reason: {said}")
        backed_up = {path.name[:40] for path in (own / "binaries").rglob("*.bin*")}
        if not backed_up & installation.marked():
            raise Different("Fedora marked none of the binaries of /c1 as unused")
        service.call("restore", own, 204)
        if backed_up & installation.marked():
            raise Different(f"in an hour Fedora deletes {backed_up & installation.marked()}, which are in use again")
        empty = root / "empty"
        empty.mkdir()
        for directory in (empty, root / "nowhere"):
            service.call("restore", directory, 500)
        installation.compare(before)
    for directory in (ours, own):
        installation.wipe()
        tool.restore(directory)
        said = installation.compare(before)
    return said


def fedora_as_source(lab, version, kind):
    """Holdfast has a Fedora back itself up, by its own call, and restore itself, as an archive and as a restore point."""
    installation = Installation(lab, version, kind)
    fedora = installation.fedora
    staging = lab.directory / "staging"
    staging.mkdir()
    more = ""
    url = fedora.url
    if not version.startswith("4."):
        user, password = fedora.login
        file = lab.directory / "password"
        file.write_text(password + "\n")
        file.chmod(0o600)
        more = f', password_file = "{file}"'
        url = url.replace("://", f"://{user}@")
    tool = lab.holdfast().configure(main=(installation.binaries, holdfast.fedora_itself(url, staging, more)))
    with fedora:
        fedora.fill()
        before = fedora.dump()[0]
        archive = tool.backup()["result"]
        point = tool.copy()["result"]
    for name in (archive, point):
        installation.wipe()
        with fedora:
            tool.restore(name)
            installation.compare_running(before)
    said = installation.compare(before)
    left = [path.name for path in staging.iterdir() if path.name != ".holdfast.lock"]
    if left:
        raise Different(f"the staging directory still holds {left}")
    return said


# The documents.


def pages(lab, name, kind):
    """The commands of "Restore a Fedora", by Holdfast and by hand, as they stand in the documents, after all was lost."""
    installation = Installation(lab, "4.7.5", kind, user=kind and "fcrepo")
    fedora = installation.fedora
    if kind:
        documents = holdfast.database(installation)
    else:
        staging = lab.directory / "staging"
        staging.mkdir()
        documents = holdfast.fedora_itself(fedora.url, staging)
    tool = lab.holdfast().configure(main=(installation.binaries, documents))
    with fedora:
        fedora.fill()
        before = fedora.dump()[0]
        archive = tool.backup()["result"]
        point = tool.copy()["result"]
    machine = Machine(tool, fedora, installation.server)
    try:
        for block, variables in ((name, {"POINT": point}), (name, {"POINT": archive}), (f"{name} by hand", {"ARCHIVE": archive.removesuffix(".zip")})):
            installation.destroy()
            shutil.rmtree(tool.directory / "state")
            machine.run(block, **variables)
            said = installation.compare_running(before)
            fedora.stop()
        # What Fedora took itself is there after another start, too.
        installation.compare(before)
    finally:
        machine.close()
        fedora.stop()
    return said
