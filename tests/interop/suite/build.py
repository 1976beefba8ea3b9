"""Fetches what the suite runs from Maven Central, once, and compiles our own program. All of it goes below target/interop.

A part is made anew when the files that it is made of change; with all parts there, nothing is asked of the network.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
import zipfile

from suite import Missing

HERE = pathlib.Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
COPY = "org.apache.maven.plugins:maven-dependency-plugin:2.8"
FEDORAS = ("4.7.5", "5.0.2", "5.1.1")
# For programs that run for seconds: no compiler that pays off after minutes, and no threads that collect garbage.
BRIEF = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]


def cache():
    """Where things are kept: beside what cargo builds, or where INTEROP_CACHE says."""
    return pathlib.Path(os.environ.get("INTEROP_CACHE", ROOT / "target" / "interop"))


def program(name, package):
    path = shutil.which(name)
    if not path:
        raise Missing(f"{name} is not installed (Debian: apt-get install {package})")
    return path


def part(name, sources, make):
    """The directory `name` of the cache, made by `make` where it is not there or its sources have changed."""
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(source.relative_to(HERE).as_posix().encode() + b"\0" + source.read_bytes())
    directory = cache() / name
    mark = directory / ".made-of"
    if mark.exists() and mark.read_text() == digest.hexdigest():
        return directory
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix=".making-") as temporary:
        made = pathlib.Path(temporary) / "part"
        made.mkdir()
        make(made)
        (made / ".made-of").write_text(digest.hexdigest())
        shutil.rmtree(directory, ignore_errors=True)
        made.rename(directory)
    return directory


def maven(arguments, log):
    """Runs Maven quietly; what it said is shown when it fails."""
    command = [program("mvn", "maven"), "-B", *arguments]
    with open(log, "w") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        errors = [line for line in pathlib.Path(log).read_text().splitlines() if "ERROR" in line]
        raise RuntimeError("maven failed:\n" + "\n".join(errors[:5]))


def jars(pom, into):
    maven(["-f", str(pom), f"{COPY}:copy-dependencies", f"-DoutputDirectory={into}", "-DincludeScope=runtime", "-DexcludeTypes=pom"], cache() / "maven.log")


def lab():
    """The class path of the ModeShape lab."""
    libraries = part("lab-jars", [HERE / "lab" / "pom.xml"], lambda into: jars(HERE / "lab" / "pom.xml", into))
    sources = sorted((HERE / "lab" / "lab").glob("*.java"))

    def compile_into(into):
        done = subprocess.run([program("javac", "openjdk-17-jdk-headless"), "--release", "17", "-proc:none", "-d", into, "-cp", f"{libraries}/*", *sources], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError("javac failed:\n" + done.stderr)

    return f"{part('lab-classes', sources, compile_into)}:{libraries}/*"


def jetty():
    pom = HERE / "webapps" / "jetty" / "pom.xml"
    return part("jetty", [pom], lambda into: jars(pom, into))


def fedora(version):
    """The directory of a web application: the war as published, or one put together from the modules where none was published."""
    own = HERE / "webapps" / version
    if own.is_dir():
        return part(f"fedora-{version}", list(own.iterdir()), lambda into: assemble(own, into))
    return part(f"fedora-{version}-published", [], lambda into: published(version, into))


def published(version, into):
    """Unpacked, as each start would have to do that otherwise."""
    maven([f"{COPY}:copy", f"-Dartifact=org.fcrepo:fcrepo-webapp:{version}:war", f"-DoutputDirectory={into}"], cache() / "maven.log")
    war = next(into.glob("*.war"))
    with zipfile.ZipFile(war) as packed:
        packed.extractall(into)
    war.unlink()


def assemble(own, into):
    jars(own / "pom.xml", into / "WEB-INF" / "lib")
    classes = into / "WEB-INF" / "classes"
    classes.mkdir(parents=True)
    for name in ("namespaces.yml", "jbossts-properties.xml", "logback.xml"):
        shutil.copy(own / name, classes)
    for name in ("web.xml", "spring.xml"):
        shutil.copy(own / name, into / "WEB-INF")
