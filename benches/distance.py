"""Puts a distance between the programs of this machine: a round trip as over a network, for connections as well."""
import collections, fcntl, importlib.util, multiprocessing, os, select, struct, subprocess, time

HERE = os.path.dirname(os.path.abspath(__file__))
spec = importlib.util.spec_from_file_location("tree", os.path.join(HERE, "tree.py"))
trees = importlib.util.module_from_spec(spec)
spec.loader.exec_module(trees)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True)


class Distance:
    """A network namespace for this program and its children in which the server is as far away as is said.

    It takes the kernel's netem on the loopback interface. Where the kernel has none, the packets to the server go out of a
    TUN device, whose other end is a process here: it keeps each for half of the round trip and sends it back with source
    and destination exchanged, so that it arrives at the server, which answers the same way. Both need root.
    """

    def __init__(self):
        trees.namespace(0x40000000)  # CLONE_NEWNET
        run("ip", "link", "set", "lo", "up")
        self.process = self.late = None
        try:
            run("tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "0ms", "limit", "100000")
            self.how, self.host = "netem on the loopback interface", "127.0.0.1"
        except (OSError, subprocess.CalledProcessError):
            self.how, self.host = "a TUN device (this kernel has no netem)", "127.0.0.2"
            self.reflect()

    def set(self, round_trip):
        """From now on it takes this long, in seconds."""
        if self.late is None:
            run("tc", "qdisc", "change", "dev", "lo", "root", "netem", "delay", f"{round_trip * 500:g}ms", "limit", "100000")
        else:
            self.late.value = round_trip / 2

    def reflect(self):
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"away", 0x0001 | 0x1000))  # TUNSETIFF: IFF_TUN, IFF_NO_PI
        # Without this the whole of 127.0.0.0/8 would be here.
        run("ip", "address", "del", "127.0.0.1/8", "dev", "lo")
        run("ip", "address", "add", "127.0.0.1/32", "dev", "lo")
        run("ip", "link", "set", "away", "up", "mtu", "65000", "txqueuelen", "10000")
        for name in ("all", "away"):
            for setting, value in (("route_localnet", "1"), ("rp_filter", "0")):
                with open(f"/proc/sys/net/ipv4/conf/{name}/{setting}", "w") as file:
                    file.write(value)
        run("ip", "route", "add", "127.0.0.2/32", "dev", "away", "src", "127.0.0.1")
        self.late = multiprocessing.RawValue("d", 0.0)
        self.process = multiprocessing.get_context("fork").Process(target=send_back, args=(tun, self.late), daemon=True)
        self.process.start()
        os.close(tun)

    def end(self):
        if self.process:
            self.process.kill()
            self.process.join()


def send_back(tun, late):
    trees.die_with_parent()
    waiting = collections.deque()
    while True:
        seconds = max(0, waiting[0][0] - time.monotonic()) if waiting else None
        if select.select([tun], [], [], seconds)[0]:
            packet = bytearray(os.read(tun, 1 << 16))
            if packet[0] >> 4 == 4:
                # The sums over a packet stay right when its two addresses change places.
                packet[12:16], packet[16:20] = packet[16:20], packet[12:16]
                waiting.append((time.monotonic() + late.value, packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            os.write(tun, waiting.popleft()[1])
