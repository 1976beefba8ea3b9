"""Database servers on a directory of their own and a free port, from Debian's packages. No service is started or needed.

As root they run as the user that their package made, since neither of them runs as root.
"""

import contextlib
import glob
import os
import pathlib
import shutil
import socket
import subprocess
import time

from suite import Missing


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def account(name):
    """The arguments that make a process one of `name`'s, if we are root."""
    return {"user": name, "group": name, "extra_groups": []} if os.getuid() == 0 else {}


class Server:
    """A running server, whose databases are reached as `user` without a password."""

    user = "fedora"

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.port = free_port()
        self.log = open(self.directory.parent / (self.directory.name + ".log"), "ab")

    def launch(self, command):
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL, cwd=self.directory, **account(self.account))
        deadline = time.monotonic() + 60
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start: see {self.log.name}")
            time.sleep(0.1)

    def stop(self):
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def own(self):
        if os.getuid() == 0:
            shutil.chown(self.directory, self.account, self.account)
            self.directory.chmod(0o700)


class Postgres(Server):
    name = "PostgreSQL"
    account = "postgres"
    stop_signal = 2  # fast shutdown

    @staticmethod
    def program(name):
        found = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda path: int(path.split("/")[4]))
        path = found[-1] if found else shutil.which(name)
        if not path:
            raise Missing("PostgreSQL is not installed (Debian: apt-get install postgresql)")
        return path

    def __init__(self, directory):
        initdb = self.program("initdb")
        super().__init__(directory)
        self.directory.mkdir()
        self.own()
        subprocess.run([initdb, "-D", self.directory / "data", "-U", self.user, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
                       check=True, stdout=self.log, stderr=self.log, cwd=self.directory, **account(self.account))
        self.launch([self.program("postgres"), "-D", self.directory / "data", "-p", str(self.port), "-k", self.directory,
                     "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=100"])

    def answers(self):
        return subprocess.run([self.program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode == 0

    def sql(self, statement, database="postgres"):
        """The rows, as text with tabs."""
        return subprocess.run([self.program("psql"), "-h", "127.0.0.1", "-p", str(self.port), "-U", self.user, "-d", database, "-X", "-q", "-A", "-t", "-F", "\t",
                               "-v", "ON_ERROR_STOP=1", "-c", statement], check=True, capture_output=True, text=True).stdout

    def create(self, database):
        self.sql(f"CREATE DATABASE {database}")

    def drop(self, database):
        self.sql(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def jdbc(self, database):
        return f"jdbc:postgresql://127.0.0.1:{self.port}/{database}"

    def url(self, database, user=None):
        """As Holdfast takes it."""
        return f"postgresql://{user or self.user}@127.0.0.1:{self.port}/{database}"

    def table(self, database):
        """How the table of documents is made."""
        columns = self.sql("SELECT column_name, data_type, character_maximum_length, is_nullable, column_default FROM information_schema.columns "
                           "WHERE table_name = 'modeshape_repository' ORDER BY ordinal_position", database)
        keys = self.sql("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'modeshape_repository'::regclass ORDER BY 1", database)
        return columns + keys

    def admit(self, user, database):
        """Someone who has rights in a database of their own alone."""
        self.sql(f"DROP ROLE IF EXISTS {user}")
        self.sql(f"CREATE ROLE {user} LOGIN")

    def give(self, database, user):
        self.sql(f"ALTER DATABASE {database} OWNER TO {user}")

    def client_environment(self, home):
        """What lets the clients without options reach the server, as its administrator."""
        return {"PGHOST": "127.0.0.1", "PGPORT": str(self.port), "PGUSER": self.user}


class MariaDb(Server):
    name = "MariaDB"
    account = "mysql"
    stop_signal = 15

    def __init__(self, directory):
        mariadbd = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin")
        if not mariadbd:
            raise Missing("MariaDB is not installed (Debian: apt-get install mariadb-server)")
        super().__init__(directory)
        self.directory.mkdir()
        self.own()
        subprocess.run(["mariadb-install-db", "--no-defaults", f"--datadir={self.directory / 'data'}", "--auth-root-authentication-method=normal", "--skip-test-db",
                        f"--user={self.account}"], check=True, stdout=self.log, stderr=self.log, cwd=self.directory, **account(self.account))
        self.launch([mariadbd, "--no-defaults", f"--datadir={self.directory / 'data'}", f"--port={self.port}", "--bind-address=127.0.0.1",
                     f"--socket={self.directory / 'socket'}", f"--pid-file={self.directory / 'pid'}", "--character-set-server=utf8mb4", "--max-allowed-packet=64M",
                     "--innodb-flush-log-at-trx-commit=0"])
        self.sql(f"CREATE USER '{self.user}'@'%'; GRANT ALL ON *.* TO '{self.user}'@'%'; CREATE USER '{self.user}'@'localhost'; GRANT ALL ON *.* TO '{self.user}'@'localhost'")

    def client(self, database):
        return ["mariadb", "--no-defaults", f"--socket={self.directory / 'socket'}", "-u", "root", "-N", "-B", database]

    def answers(self):
        return subprocess.run([*self.client("mysql"), "-e", "SELECT 1"], capture_output=True).returncode == 0

    def sql(self, statement, database="mysql"):
        return subprocess.run([*self.client(database), "-e", statement], check=True, capture_output=True, text=True).stdout

    def create(self, database):
        self.sql(f"CREATE DATABASE {database}")

    def drop(self, database):
        self.sql(f"DROP DATABASE IF EXISTS {database}")

    def jdbc(self, database):
        return f"jdbc:mysql://127.0.0.1:{self.port}/{database}?useSSL=false"

    def url(self, database, user=None):
        return f"mysql://{user or self.user}@127.0.0.1:{self.port}/{database}"

    def table(self, database):
        return self.sql("SHOW CREATE TABLE MODESHAPE_REPOSITORY", database)

    def admit(self, user, database):
        for host in ("%", "localhost"):
            self.sql(f"CREATE USER IF NOT EXISTS '{user}'@'{host}'; GRANT ALL ON {database}.* TO '{user}'@'{host}'")

    def give(self, database, user):
        pass

    def client_environment(self, home):
        (home / ".my.cnf").write_text(f"[client]\nsocket = {self.directory / 'socket'}\nuser = root\n")
        return {}


@contextlib.contextmanager
def running(kind, directory):
    server = kind(directory)
    try:
        yield server
    finally:
        server.stop()
