"""The commands of the documents, as they stand there, run on a machine that a Fedora was lost on."""

import os
import pathlib
import socket
import stat
import subprocess
import sys
import threading

from suite import holdfast

DOCUMENTS = ("docs/operations.md", "docs/format.md")
# The address that the documents have for Fedora.
ADDRESS = "http://127.0.0.1:8080/rest"
SYSTEMCTL = """#!{python}
import socket
import sys

with socket.socket(socket.AF_UNIX) as unit:
    unit.connect({path!r})
    unit.sendall(" ".join(sys.argv[1:]).encode())
    unit.shutdown(socket.SHUT_WR)
    sys.exit(unit.makefile().read() or 0)
"""


def block(name):
    """The commands below `<!-- interop: name -->`, and where they begin."""
    mark = f"<!-- interop: {name} -->"
    for document in DOCUMENTS:
        lines = (holdfast.ROOT / document).read_text(encoding="utf-8").splitlines()
        if mark in lines:
            begin = lines.index(mark) + 2
            if lines[begin - 1] != "```sh":
                raise RuntimeError(f"{document}:{begin}: expected ```sh below {mark}")
            return "\n".join(lines[begin:lines.index("```", begin)]) + "\n", f"{document}:{begin + 1}"
    raise RuntimeError(f"no document has {mark}")


class Machine:
    """Where commands of the documents run: with `holdfast`, the clients of the database, and `systemctl` for one Fedora.

    `systemctl start fedora` returns when Fedora answers, as it does for a unit of `Type=notify`."""

    def __init__(self, tool, fedora, server):
        self.tool = tool
        self.fedora = fedora
        self.home = tool.directory / "home"
        self.home.mkdir()
        programs = self.home / "bin"
        programs.mkdir()
        (programs / "holdfast").symlink_to(pathlib.Path(holdfast.binary()).resolve())
        path = str(self.home / "unit")
        self.unit = socket.socket(socket.AF_UNIX)
        self.unit.bind(path)
        self.unit.listen()
        systemctl = programs / "systemctl"
        systemctl.write_text(SYSTEMCTL.format(python=sys.executable, path=path))
        systemctl.chmod(systemctl.stat().st_mode | stat.S_IXUSR)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HOLDFAST", "PG", "MYSQL"))}
        self.environment = kept | {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(self.home), "HOLDFAST_CONFIG": str(tool.configuration)}
        if server:
            self.environment |= server.client_environment(self.home)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                asked, _ = self.unit.accept()
            except OSError:
                return
            with asked:
                words = asked.makefile().read()
                try:
                    self.obey(words)
                except Exception as error:
                    asked.sendall(f"systemctl {words}: {error}".encode())

    def obey(self, words):
        if words == "start fedora" and not self.fedora.runs():
            self.fedora.start()
        elif words == "stop fedora":
            self.fedora.stop()
        elif words != "start fedora":
            raise RuntimeError("there is only `start fedora` and `stop fedora`")

    def close(self):
        self.unit.shutdown(socket.SHUT_RDWR)
        self.unit.close()

    def run(self, name, **variables):
        """Runs the block of that name; what it printed."""
        commands, place = block(name)
        commands = "set -euo pipefail\n" + commands.replace(ADDRESS, self.fedora.url)
        done = subprocess.run(["bash", "-x", "-c", commands], cwd=self.tool.directory, env=self.environment | variables, stdin=subprocess.DEVNULL,
                              capture_output=True, text=True, timeout=1200)
        if done.returncode != 0:
            raise RuntimeError(f"the commands of {place} ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-3000:]}")
        return done.stdout
