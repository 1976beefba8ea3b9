"""Holdfast itself, by its command line and as a service, with one directory as destination."""

import base64
import json
import os
import pathlib
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import zipfile

from suite.databases import free_port

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent.parent


def binary():
    """HOLDFAST, or what cargo has built last."""
    if "HOLDFAST" in os.environ:
        return os.environ["HOLDFAST"]
    built = [path for path in (ROOT / "target" / profile / "holdfast" for profile in ("release", "debug")) if path.exists()]
    if not built:
        raise RuntimeError("there is no holdfast: run `cargo build`, or set HOLDFAST")
    return str(max(built, key=lambda path: path.stat().st_mtime))


class Holdfast:
    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.configuration = self.directory / "holdfast.toml"

    def configure(self, **repositories):
        """Each repository is the directory of its binaries, and the lines of its table of documents."""
        text = '[service]\nstate_dir = "state"\nlisten = []\n\n[destination.disk]\nurl = "file:destination"\n'
        for name, (binaries, documents) in repositories.items():
            text += f'\n[repository.{name}]\nbinaries = "{binaries}"\n\n[repository.{name}.documents]\n{documents}\n'
            for kind in ("copy", "backup"):
                text += f'\n[{kind}.{name}]\nrepository = "{name}"\ndestination = "disk"\n'
        self.configuration.write_text(text)
        return self

    def command(self, *words):
        return [binary(), "--config", str(self.configuration), *map(str, words)]

    def run(self, *words, status=0):
        """The run that a command prints."""
        done = subprocess.run(self.command(*words, "--json"), capture_output=True, text=True, timeout=1200)
        if done.returncode != status:
            raise RuntimeError(f"holdfast {' '.join(map(str, words))} ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return json.loads(done.stdout)

    def backup(self, repository="main"):
        return self.run("run", f"backup.{repository}")

    def copy(self, repository="main"):
        return self.run("run", f"copy.{repository}")

    def restore(self, name, repository="main"):
        return self.run("restore", name, "--repository", repository, "--yes")

    def refused(self, name, hint, repository="main"):
        """Raises unless a restore is refused with `hint` in what it says."""
        done = subprocess.run(self.command("restore", name, "--repository", repository, "--yes"), capture_output=True, text=True, timeout=1200)
        if done.returncode == 0 or hint not in done.stderr:
            raise RuntimeError(f"holdfast restore {name} was to be refused with `{hint}`, and ended with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")

    def restore_to(self, name, directory):
        return self.run("restore", name, "--to", directory, "--yes")

    def unpacked(self, name):
        """All volumes of an archive, unzipped into one directory."""
        into = self.directory / f"unpacked-{name}"
        shutil.rmtree(into, ignore_errors=True)
        stem = name.removesuffix(".zip")
        for volume in sorted((self.directory / "destination" / "archives").glob(f"{stem}*.zip")):
            with zipfile.ZipFile(volume) as archive:
                archive.extractall(into)
        return into

    def service(self, root, repository="main"):
        """`holdfast serve`, with Fedora's two calls for directories below `root`."""
        return Service(self, root, repository)


class Service:
    """A running `holdfast serve` that has an administrator."""

    login = ("ada@example.org", "it's a password")

    def __init__(self, tool, root, repository):
        self.tool = tool
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        text = tool.configuration.read_text().replace("listen = []", f'listen = "127.0.0.1:{port}"')
        tool.configuration.write_text(f'{text}\n[older_interfaces]\nrepository = "{repository}"\nfedora_roots = ["{root}"]\n')
        subprocess.run(tool.command("passwd", self.login[0]), input=self.login[1] + "\n", check=True, capture_output=True, text=True)

    def __enter__(self):
        self.log = self.tool.directory / "service.log"
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(self.tool.command("serve"), stdout=out, stderr=out, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while self.ask("GET", "/healthz")[0] != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"holdfast serve did not start: see {self.log}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, method, path, body=None, login=None):
        """The answer's status and text; status 0 where nobody answers."""
        request = urllib.request.Request(self.url + path, data=body, method=method)
        if login:
            request.add_header("Authorization", "Basic " + base64.b64encode(":".join(login).encode()).decode())
        try:
            with urllib.request.urlopen(request, timeout=600) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def call(self, name, directory, status, login=login):
        """What `fcr:backup` or `fcr:restore` says, which has to have this status."""
        said = self.ask("POST", f"/rest/fcr:{name}", str(directory).encode(), login)
        if said[0] != status:
            raise RuntimeError(f"Holdfast's fcr:{name} of `{directory}` was to be answered with {status}: {said[0]} {said[1][:1000]}\nsee {self.log}")
        return said[1]


def directory(path):
    return f'directory = "{path}"'


def fedora_itself(url, staging, more=""):
    """The documents that a running Fedora backs up and restores by its own calls."""
    return f'fedora = {{ url = "{url}", staging = "{staging}"{more} }}'


def database(repository):
    """The documents of a ModeShape repository, or of a Fedora's database."""
    kind = {"PostgreSQL": "postgres", "MariaDB": "mysql"}[repository.server.name]
    table = {"PostgreSQL": "modeshape_repository", "MariaDB": "MODESHAPE_REPOSITORY"}[repository.server.name]
    compress = ", compress = true" if repository.compress else ""
    return f'{kind} = {{ url = "{repository.url}", table = "{table}"{compress} }}'
