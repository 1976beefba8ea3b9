#!/usr/bin/env python3
"""Measures the documents of a repository in PostgreSQL, and prints the tables of docs/benchmarks.md: their backup and
restore against psql's COPY and gzip, what the proof costs that no binary is missing, and ModeShape's own backup.

usage: benches/documents.py [--documents 1000000] [--nodes 50000] [--repeat 3] [--only copy,closure,modeshape]
       [--dir DIR] [--binaries DIR]

Everything runs on this machine, against a PostgreSQL of its own on a free port. The programs take turns; each figure is
the median of the repetitions, memory the largest. Needs PostgreSQL; for ModeShape also a JDK and Maven: see
tests/interop/README.md.
"""
import argparse, hashlib, importlib, json, os, random, shutil, signal, statistics, struct, subprocess, sys, tempfile

others = importlib.import_module("against-others")
sys.path.insert(0, os.path.join(others.ROOT, "tests", "interop"))
from suite import build, databases, modeshape  # noqa: E402

TABLE = "modeshape_repository"
# How many binaries the documents of the first part share.
FEW = 1000
# Documents that differ in more than their numbers: together larger than what gzip looks back at.
SHAPES = 200
WORDS = """archive article atlas audio author building century chapter charter city collection copy council county court
diary document drawing edition estate family field film folio garden glass harbour history image index island journal
landscape letter library list manuscript map market minute museum newspaper night object orchestra page painting paper
photograph plate poem portrait print record register report river road scan school sermon sheet ship sketch song sound
station stone street survey table theatre title tower town tract transcript valley village volume war water window
winter work""".split()


def bson(value):
    """A document as ModeShape stores it: whole numbers are int64."""
    parts = []
    for name, value in value.items() if isinstance(value, dict) else ((str(at), value) for at, value in enumerate(value)):
        kind, body = {
            bool: lambda: (8, bytes([value])),
            int: lambda: (18, struct.pack("<q", value)),
            str: lambda: (2, struct.pack("<i", len(value.encode()) + 1) + value.encode() + b"\0"),
            dict: lambda: (3, bson(value)),
            list: lambda: (4, bson(value)),
        }[type(value)]()
        parts.append(bytes([kind]) + name.encode() + b"\0" + body)
    body = b"".join(parts)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def shape(rng):
    """The node of a file's content as Fedora 4.7 has it, with marks where documents differ; about 1 KiB of BSON."""
    said = " ".join(rng.choice(WORDS) for _ in range(rng.randrange(3, 18)))
    date = lambda mark: {"$date": mark * 19 + ".000Z"}
    return bson({
        "metadata": {"id": "82ca2557505d64" + "I" * 36},
        "content": {
            "key": "82ca2557505d64" + "I" * 36,
            "parent": "82ca2557505d64" + "P" * 36,
            "properties": {
                "http://www.jcp.org/jcr/1.0": {
                    "primaryType": {"$name": "nt:resource"},
                    "mixinTypes": [{"$name": "{http://fedora.info/definitions/v4/repository#}Binary"},
                                   {"$name": "{http://fedora.info/definitions/v4/repository#}Resource"}],
                    "data": {"$sha1": "S" * 40, "$len": 40},
                },
                "http://fedora.info/definitions/v4/repository#": {
                    "created": date("C"), "lastModified": date("M"),
                    "createdBy": "fedoraAdmin", "lastModifiedBy": "fedoraAdmin",
                },
                "http://www.loc.gov/premis/rdf/v1#": {
                    "hasSize": 40,
                    "hasMessageDigest": {"$uri": "urn:sha1:" + "S" * 40},
                },
                "http://www.ebu.ch/metadata/ontologies/ebucore/ebucore#": {
                    "filename": f"{rng.choice(WORDS)} {'N' * 8}.tif", "hasMimeType": rng.choice(["image/tiff", "image/jpeg", "text/xml"]),
                },
                "http://purl.org/dc/elements/1.1/": {"title": [said.capitalize()], "identifier": "N" * 8},
            },
        },
    })


def body_of(number):
    return b"%040d" % number


def rows(count, shared):
    """The rows of a table in PostgreSQL's binary form: each refers to a binary of its own, or to one of a few."""
    rng = random.Random(4)
    shapes = [shape(rng) for _ in range(SHAPES)]
    uuid = lambda: (lambda hex: f"{hex[:8]}-{hex[8:12]}-{hex[12:16]}-{hex[16:20]}-{hex[20:]}".encode())(rng.randbytes(16).hex())
    date = lambda: b"%04d-%02d-%02dT%02d:%02d:%02d" % (rng.randrange(2012, 2026), rng.randrange(1, 13), rng.randrange(1, 29),
                                                     rng.randrange(24), rng.randrange(60), rng.randrange(60))
    for number in range(count):
        own = uuid()
        binary = hashlib.sha1(body_of(number % FEW if shared else number)).hexdigest().encode()
        document = rng.choice(shapes)
        for mark, value in ((b"I" * 36, own), (b"P" * 36, uuid()), (b"S" * 40, binary), (b"C" * 19, date()), (b"M" * 19, date()),
                            (b"N" * 8, b"%08d" % number)):
            document = document.replace(mark, value)
        yield b"82ca2557505d64" + own, document


def apart(work):
    """Does it in a process of its own: memory that it takes here would seem to be that of all programs started later."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(error, file=sys.stderr)
            os._exit(1)
    if os.waitpid(child, 0)[1] != 0:
        sys.exit("what is to be measured could not be made")


class Ground:
    """A PostgreSQL with the documents, binaries, and the programs at work on them."""

    def __init__(self, directory, binaries, repeat):
        self.bench = others.Bench(directory, repeat)
        self.binaries = binaries
        self.server = databases.Postgres(self.path("postgres"))

    def path(self, name):
        return self.bench.path(name)

    def psql(self, database, statement):
        client = f"{self.server.program('psql')} -X -q -h 127.0.0.1 -p {self.server.port} -U {self.server.user} -d {database}"
        return f'{client} -v ON_ERROR_STOP=1 -c "{statement}"'

    def empty(self, database):
        """A database with the table and nothing in it."""
        self.server.drop(database)
        self.server.create(database)
        self.server.sql(f"CREATE TABLE {TABLE} (id VARCHAR(255) PRIMARY KEY NOT NULL, content BYTEA NOT NULL)", database)
        self.server.sql("CHECKPOINT")

    def fill(self, database, count, shared):
        self.empty(database)

        def copy():
            process = subprocess.Popen(self.psql(database, f"COPY {TABLE} FROM STDIN (FORMAT binary)"), shell=True, stdin=subprocess.PIPE)
            process.stdin.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for id, document in rows(count, shared):
                process.stdin.write(struct.pack(">hi", 2, len(id)) + id + struct.pack(">i", len(document)) + document)
            process.stdin.write(b"\xff\xff")
            process.stdin.close()
            if process.wait() != 0:
                raise RuntimeError("the table could not be filled")

        apart(copy)
        self.settle(database)

    def settle(self, database):
        """As after a while: what would else be written beside what is measured is written now."""
        self.server.sql("VACUUM ANALYZE", database)
        self.server.sql("CHECKPOINT")
        os.sync()

    def store(self, name, count):
        store = os.path.join(self.binaries, name)
        shutil.rmtree(store, ignore_errors=True)

        def make():
            for number in range(count):
                digest = hashlib.sha1(body_of(number)).hexdigest()
                leaf = os.path.join(store, digest[:2], digest[2:4], digest[4:6])
                os.makedirs(leaf, exist_ok=True)
                with open(os.path.join(leaf, digest), "wb") as file:
                    file.write(body_of(number))

        apart(make)
        return store

    def configure(self, **repositories):
        """A fresh state directory and an empty destination; a repository is a database and a store."""
        home = self.path("home")
        shutil.rmtree(home, ignore_errors=True)
        os.makedirs(home)
        text = '[service]\nstate_dir = "state"\nlisten = []\n[destination.disk]\nurl = "file:destination"\n'
        for name, (database, store) in repositories.items():
            text += (f'[repository.{name}]\nbinaries = "{store}"\n'
                     f'documents = {{ postgres = {{ url = "{self.server.url(database)}", table = "{TABLE}" }} }}\n'
                     f'[backup.{name}]\nrepository = "{name}"\ndestination = "disk"\n')
        with open(os.path.join(home, "holdfast.toml"), "w") as file:
            file.write(text)
        return file.name

    def holdfast(self, config, *words):
        measured = others.Measured([self.bench.holdfast, "--config", config, *words, "--json"])
        measured.run = json.loads(measured.output[("\n" + measured.output).index("\n{"):])
        return measured

    def size(self, database):
        return int(self.server.sql(f"SELECT sum(octet_length(content)) FROM {TABLE}", database))

    def stop(self):
        self.server.stop()


def documents(ground, count):
    """Backup and restore of the documents, whose binaries are few."""
    store = ground.store("few", FEW)
    ground.fill("shared", count, shared=True)
    text, binary = ground.path("documents.gz"), ground.path("binary.gz")
    kept = {}

    def own():
        config = ground.configure(main=("shared", store))
        measured = ground.holdfast(config, "run", "backup.main")
        counts = measured.run["counts"]
        if (counts["documents"], counts["references"], counts["missing"]) != (count, FEW, 0):
            sys.exit(f"the backup is not what it should be: {counts}")
        kept["holdfast"] = counts["size"]
        return measured, None

    def piped(name, file, options):
        measured = others.Measured(f"set -o pipefail; {ground.psql('shared', f'COPY {TABLE} TO STDOUT {options}')} | gzip -1 > {file}", shell=True)
        kept[name] = os.path.getsize(file)
        return measured, None

    rows = ground.bench.take_turns({
        "holdfast run backup": own,
        "psql COPY \\| gzip -1": lambda: piped("psql", text, ""),
        "psql COPY (FORMAT binary) \\| gzip -1": lambda: piped("psql binary", binary, "(FORMAT binary)"),
    })
    others.table(f"Backup of {count:,} documents, {ground.size('shared') / 1e9:.2f} GB of BSON", rows,
                 "The memory of a pipe is that of its largest process. In MB: "
                 + ", ".join(f"{name} {size / 1e6:.0f}" for name, size in kept.items()) + ".")

    # Into a repository that has the binaries, and an empty table.
    config = ground.configure(main=("shared", store), back=("back", ground.store("back", FEW)))
    archive = ground.holdfast(config, "run", "backup.main").run["result"]

    def fresh(run):
        ground.empty("back")
        os.sync()
        return run(), None

    restore = lambda *options: ground.holdfast(config, "restore", archive, "--repository", "back", "--documents-only", *options)
    unpack = lambda file, options: others.Measured(
        f"set -o pipefail; gunzip -c {file} | {ground.psql('back', f'COPY {TABLE} FROM STDIN {options}')}", shell=True)
    rows = ground.bench.take_turns({
        "gunzip \\| psql COPY": lambda: fresh(lambda: unpack(text, "")),
        "gunzip \\| psql COPY (FORMAT binary)": lambda: fresh(lambda: unpack(binary, "(FORMAT binary)")),
        "holdfast restore": lambda: fresh(lambda: restore("--yes")),
    })
    plan = others.Measured([ground.bench.holdfast, "--config", config, "restore", archive, "--repository", "back", "--documents-only",
                            "--dry-run", "--json"]).output
    if json.loads(plan[plan.index("{"):])["documents"] != 0:
        sys.exit(f"what was restored is not what was backed up: {plan}")
    others.table(f"Restore of {count:,} documents into an empty table", rows)
    for file in (text, binary):
        os.unlink(file)
    for database in ("shared", "back"):
        ground.server.drop(database)


def closure(ground, count):
    """The backup of documents with a binary each, against the same where nothing says that it refers to one."""
    store = ground.store("many", count)
    ground.fill("own", count, shared=False)
    ground.empty("mute")
    with_name, without = b"$sha1".hex(), b"$sha0".hex()
    pipe = (f"{ground.psql('own', f'COPY {TABLE} TO STDOUT')} | sed s/{with_name}/{without}/ | "
            f"{ground.psql('mute', f'COPY {TABLE} FROM STDIN')}")
    subprocess.run(pipe, shell=True, check=True)
    ground.settle("mute")
    proofs = []

    def own(database, references):
        config = ground.configure(main=(database, store))
        measured = ground.holdfast(config, "run", "backup.main")
        counts = measured.run["counts"]
        if (counts["documents"], counts["references"], counts["missing"], counts["unreferenced"]) != (count, references, 0, count - references):
            sys.exit(f"the backup is not what it should be: {counts}")
        if references:
            proofs.append(measured.seconds - next(at for at, line in measured.said if line.startswith("looking for what the documents need")))
        return measured, None

    rows = ground.bench.take_turns({
        "holdfast run backup": lambda: own("own", count),
        "the same without a reference": lambda: own("mute", 0),
    })
    others.table(f"Backup of {count:,} documents and their {count:,} binaries of 40 bytes", rows,
                 f"From the last binary to the end, with the manifest: {statistics.median(proofs):.2f} s.")
    shutil.rmtree(store)
    for database in ("own", "mute"):
        ground.server.drop(database)


def against_modeshape(ground, nodes):
    """A repository that ModeShape made: its own backup and restore against ours."""
    # It runs for long enough to be compiled as Java does by itself.
    build.BRIEF = []
    build.lab()
    source = modeshape.Repository(ground.server, "modeshape", ground.binaries)
    source.run("write-many", nodes)
    ground.settle("modeshape")
    count = int(ground.server.sql(f"SELECT count(*) FROM {TABLE}", "modeshape"))
    binaries = sum(1 for _, _, names in os.walk(source.binaries) for name in names if len(name) == 40)
    directory = ground.path("modeshape-backup")
    said = {"backup": [], "restore": []}

    def its(command, repository):
        measured = others.Measured(repository.command(command, directory))
        took = next(line for _, line in measured.said if line.startswith(f"{command} took "))
        said[command].append(int(took.split()[2]) / 1000)
        return measured, None

    def its_backup():
        shutil.rmtree(directory, ignore_errors=True)
        return its("backup", source)

    def own_backup():
        return ground.holdfast(ground.configure(main=("modeshape", source.binaries)), "run", "backup.main"), None

    rows = ground.bench.take_turns({"holdfast run backup": own_backup, "ModeShape's backupRepository": its_backup})
    size = sum(os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(source.binaries) for name in names)
    note = "ModeShape's seconds include the start of Java and of the repository; the call alone took {:.2f}."
    others.table(f"Backup of a repository of ModeShape's: {count:,} documents, {binaries:,} binaries of {size / 1e6:.0f} MB", rows,
                 note.format(statistics.median(said["backup"])))

    back = os.path.join(ground.binaries, "back")
    config = ground.configure(main=("modeshape", source.binaries), back=("back", back))
    archive = ground.holdfast(config, "run", "backup.main").run["result"]

    def own_restore():
        shutil.rmtree(back, ignore_errors=True)
        ground.empty("back")
        os.sync()
        return ground.holdfast(config, "restore", archive, "--repository", "back", "--yes"), None

    def its_restore():
        target = modeshape.Repository(ground.server, "anew", ground.binaries)
        shutil.rmtree(target.binaries, ignore_errors=True)
        os.sync()
        return its("restore", target)

    rows = ground.bench.take_turns({"holdfast restore": own_restore, "ModeShape's restoreRepository": its_restore})
    others.table("Restore of it into an empty database and directory", rows, note.format(statistics.median(said["restore"])))
    for database in ("back", "anew"):
        found = int(ground.server.sql(f"SELECT count(*) FROM {TABLE}", database))
        print(f"In {database} afterwards: {found:,} documents", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--nodes", type=int, default=50_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="copy,closure,modeshape")
    parser.add_argument("--dir", default=None, help="where the database, the archives and dumps go; a temporary directory by default")
    parser.add_argument("--binaries", default=None, help="where the binaries go, two million files and directories; the same by default")
    arguments = parser.parse_args()
    if not os.access(os.path.join(others.RELEASE, "holdfast"), os.X_OK):
        subprocess.run(["cargo", "build", "--release"], cwd=others.ROOT, check=True)
    directory = tempfile.mkdtemp(dir=arguments.dir)
    binaries = tempfile.mkdtemp(dir=arguments.binaries or directory)
    # The server is another user's.
    os.chmod(directory, 0o755)
    only = arguments.only.split(",")
    # Nothing is left behind when it is told to stop, either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    ground = None
    try:
        ground = Ground(directory, binaries, arguments.repeat)
        if "copy" in only:
            documents(ground, arguments.documents)
        if "closure" in only:
            closure(ground, arguments.documents)
        if "modeshape" in only:
            against_modeshape(ground, arguments.nodes)
    finally:
        if ground:
            ground.stop()
        shutil.rmtree(binaries, ignore_errors=True)
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
