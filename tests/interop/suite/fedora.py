"""A real Fedora in a servlet container: started, filled, read back and stopped."""

import base64
import hashlib
import pathlib
import random
import subprocess
import time
import urllib.error
import urllib.request

from suite import build
from suite.databases import free_port

CONTAINS = "<http://www.w3.org/ns/ldp#contains>"
NOT_RDF = "http://www.w3.org/ns/ldp#NonRDFSource"
# Fedora's own libraries define classes in ways that Java 17 allows only where it is told to.
OPENED = ["--add-opens", "java.base/java.lang=ALL-UNNAMED"]


class Fedora:
    """One Fedora on a home directory of its own; in `database`, a server that has a database `fcrepo`, or embedded."""

    login = ("fedoraAdmin", "secret3")

    def __init__(self, version, home, database=None, user=None):
        self.version = version
        self.home = pathlib.Path(home).resolve()
        self.database = database
        self.user = user or (database and database.user)
        self.process = None
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/rest"

    @property
    def binaries(self):
        return self.home / "data" / "fcrepo.binary.directory"

    def start(self, seconds=300):
        for name in ("data", "tmp", "unpacked"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        configuration = "file-simple"
        properties = {}
        if self.database:
            configuration = {"PostgreSQL": "jdbc-postgresql", "MariaDB": "jdbc-mysql"}[self.database.name]
            kind = configuration.removeprefix("jdbc-")
            properties = {f"fcrepo.{kind}.{name}": value for name, value in
                          {"host": "127.0.0.1", "port": self.database.port, "username": self.user, "password": ""}.items()}
        properties |= {
            "java.io.tmpdir": self.home / "tmp",
            "fcrepo.home": self.home / "data",
            "fcrepo.modeshape.configuration": f"classpath:/config/{configuration}/repository.json",
            "fcrepo.dynamic.jms.port": free_port(),
            "fcrepo.dynamic.stomp.port": free_port(),
            "lab.war": build.fedora(self.version),
            "lab.unpacked": self.home / "unpacked",
            "lab.realm": build.HERE / "webapps" / "jetty" / "realm.properties",
            "file.encoding": "UTF-8",
        }
        command = [build.program("java", "openjdk-17-jdk-headless"), *OPENED, *build.BRIEF, "-Xmx1g", *(f"-D{name}={value}" for name, value in properties.items()),
                   "-cp", f"{build.jetty()}/*", "org.eclipse.jetty.runner.Runner", "--host", "127.0.0.1", "--port", str(self.port),
                   build.HERE / "webapps" / "jetty" / "context.xml"]
        self.log = self.home / "fedora.log"
        began = time.monotonic()
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=self.home)
        while True:
            if self.process.poll() is not None or time.monotonic() - began > seconds:
                self.stop()
                raise RuntimeError(f"Fedora {self.version} did not start: see {self.log}")
            try:
                self.request("GET", "/", headers={"Accept": "application/n-triples"}, timeout=30)
                return time.monotonic() - began
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)

    def runs(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        if not self.runs():
            return
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def request(self, method, path, body=None, headers=None, timeout=300):
        """The answer's status, headers and body; a status of 400 or more is an error."""
        url = path if path.startswith("http") else self.url + path
        request = urllib.request.Request(url, data=body, method=method, headers=dict(headers or {}))
        request.add_header("Authorization", "Basic " + base64.b64encode(":".join(self.login).encode()).decode())
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return answer.status, answer.headers, answer.read()

    def backup(self, directory=None):
        """Fedora's own backup: the directory that it says."""
        return self.request("POST", "/fcr:backup", str(directory).encode() if directory else b"", {"Content-Type": "text/plain"})[2].decode()

    def restore(self, directory):
        return self.request("POST", "/fcr:restore", str(directory).encode(), {"Content-Type": "text/plain"})[0]

    def fill(self, seed=1, containers=4, objects=6, transactions=3):
        """Objects and files that depend on the seed alone: the number of objects, and of files."""
        made = random.Random(seed)
        sizes = [100, 1, 4095, 4096, 4097, 20_000, 1_000_000, 5_000_000]
        count = files = 0
        for c in range(containers):
            self.describe(f"/c{c}", made)
            count += 1
            for o in range(objects):
                path = f"/c{c}/o{o}"
                self.describe(path, made)
                count += 1
                size = sizes[files % len(sizes)] if files < 2 * len(sizes) else made.randrange(100, 60_000)
                self.request("PUT", f"{path}/file", made.randbytes(size), {"Content-Type": "application/octet-stream"})
                files += 1
                if o % 3 == 0:
                    self.describe(f"{path}/deeper/and'deeper", made)
                    count += 1
        for t in range(transactions):
            location = self.request("POST", "/fcr:tx")[1]["Location"]
            for o in range(3):
                self.describe(f"{location}/t{t}o{o}", made)
                self.request("PUT", f"{location}/t{t}o{o}/file", made.randbytes(made.randrange(100, 9_000)), {"Content-Type": "text/plain"})
                count += 1
                files += 1
            self.request("POST", f"{location}/fcr:tx/fcr:commit")
        # What was removed again must not come back.
        self.describe("/removed", made)
        self.request("DELETE", "/removed")
        return count, files

    def describe(self, path, made):
        number = made.randrange(1_000_000)
        turtle = f"""
            @prefix dc: <http://purl.org/dc/elements/1.1/> .
            <> dc:title "O'Reilly's \\"book\\" {number}" , "\u65e5\u672c\u8a9e \u0627\u0644\u0639\u0631\u0628\u064a\u0629 {number}"@ja ;
               dc:description "{'a long text, ' * made.randrange(400)}" ;
               dc:identifier {number} ;
               dc:date "2014-11-27T12:34:56.789Z"^^<http://www.w3.org/2001/XMLSchema#dateTime> ;
               <http://example.org/o'dd#number> 1.5e300 , true .
            """
        self.request("PUT", path, turtle.encode(), {"Content-Type": "text/turtle; charset=UTF-8"})

    def dump(self):
        """All triples and the digests of all files, sorted, and the number of objects and of files."""
        lines = []
        objects = files = 0
        waiting = [self.url + "/"]
        seen = set(waiting)
        while waiting:
            url = waiting.pop()
            _, headers, _ = self.request("HEAD", url)
            rdf = url
            if any(NOT_RDF in link for link in headers.get_all("Link", [])):
                body = self.request("GET", url)[2]
                lines.append(f"{url} has {len(body)} bytes {hashlib.sha1(body).hexdigest()}")
                files += 1
                rdf = url + "/fcr:metadata"
            else:
                objects += 1
            triples = self.request("GET", rdf, headers={"Accept": "application/n-triples"})[2].decode()
            for triple in triples.splitlines():
                lines.append(f"{rdf} {triple}")
                subject, predicate, value = triple.split(" ", 2)
                child = value.removesuffix(" .").strip("<>")
                if predicate == CONTAINS and child.startswith(self.url) and child not in seen:
                    seen.add(child)
                    waiting.append(child)
        lines = sorted(line.replace(self.url, "REST") for line in lines)
        return lines, objects, files
