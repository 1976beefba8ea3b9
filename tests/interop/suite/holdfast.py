"""Holdfast itself, by its command line, with one repository and one directory as destination."""

import json
import os
import pathlib
import shutil
import subprocess
import zipfile

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


def directory(path):
    return f'directory = "{path}"'


def database(repository):
    """The documents of a ModeShape repository, or of a Fedora's database."""
    kind = {"PostgreSQL": "postgres", "MariaDB": "mysql"}[repository.server.name]
    table = {"PostgreSQL": "modeshape_repository", "MariaDB": "MODESHAPE_REPOSITORY"}[repository.server.name]
    return f'{kind} = {{ url = "{repository.url}", table = "{table}" }}'
