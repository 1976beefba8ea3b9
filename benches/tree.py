"""Large stores of tiny binaries for the programs beside it: made fast, walked bare, on a file system of their own."""
import ctypes, os, signal, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PREFIXES = 256 + 65536  # the directories above the third level, of any store that is large


def die_with_parent():
    """For a child: it is killed when the program ends, whatever ended that."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def stop_on_signals():
    """A signal ends the program like an error, so that it takes away what it made."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("stopped by a signal"))


def namespace(flags):
    """Puts the program into a namespace of its own, which goes with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def quantity(text):
    """A size such as 24G."""
    return int(text[:-1]) << {"K": 10, "M": 20, "G": 30, "T": 40}[text[-1].upper()] if text[-1].isalpha() else int(text)


class Images:
    """New ext4 file systems in sparse files, seen by this program and its children alone.

    A directory of one is as fast as that file system is when it is new, and is gone at once. The files have no name and
    the mounts are in a namespace, so that no more than an empty directory is left if the program is killed. Needs root and
    loop devices.
    """

    def __init__(self, directory=None):
        self.directory, self.mounts = directory, []
        namespace(0x20000)  # CLONE_NEWNS
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)

    def mount(self, size, inodes, block=4096):
        """Makes and mounts one; gives its directory."""
        place = tempfile.mkdtemp(prefix="holdfast-image-", dir=self.directory)
        image = place + ".ext4"
        with open(image, "xb") as file:
            file.truncate(size)
        try:
            options = "lazy_itable_init=1,lazy_journal_init=1"
            subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-b", str(block), "-N", str(inodes), "-E", options, image],
                           check=True)
            subprocess.run(["mount", "-o", "loop,noatime", image, place], check=True)
        except BaseException:
            os.rmdir(place)
            raise
        finally:
            os.unlink(image)
        self.mounts.append(place)
        return place

    def unmount(self, place=None):
        """Gives one back, or all."""
        for mount in [place] if place else self.mounts[:]:
            subprocess.run(["umount", "-l", mount], check=True)
            os.rmdir(mount)
            self.mounts.remove(mount)


def program(directory):
    """Compiles tree.c into a directory."""
    path = os.path.join(directory, "tree")
    subprocess.run(["cc", "-O2", "-pthread", "-o", path, os.path.join(HERE, "tree.c")], check=True)
    return path


def make_store(tree, store, count, seed=1, directories=None, workers=None):
    """Makes a store; gives how many bytes and directories it has.

    With `directories` it has about so many in all. So many files find F directories of S possible ones with
    F = S * (1 - exp(-count / S)); S is what is given to the program, which takes only names that fall into them.
    """
    os.makedirs(store, exist_ok=True)
    leaves = 0
    if directories:
        leaves = possible_leaves(count, directories - PREFIXES)
    command = [tree, "make", store, str(count), str(seed), str(leaves), str(workers or os.cpu_count())]
    made = subprocess.run(command, check=True, stdout=subprocess.PIPE, preexec_fn=die_with_parent)
    files, size, there = map(int, made.stdout.split())
    if files != count:
        sys.exit(f"{files} files were made and not {count}")
    return size, there


def possible_leaves(count, wanted):
    """How many directories must be possible for `count` names of chance to fall into `wanted` of them."""
    from math import expm1
    if not 0 < wanted < count:
        sys.exit(f"{count} files cannot have {wanted + PREFIXES} directories: more than {PREFIXES} and fewer than one a file")
    low, high = wanted, 1 << 24
    if high * -expm1(-count / high) < wanted:
        return 0  # chance alone gives fewer
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if middle * -expm1(-count / middle) < wanted else (low, middle)
    return high
