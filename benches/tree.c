/* Makes large stores of tiny binaries, and walks them with as little as a walk can do; for benches/tree.py.
 *
 * tree make DIR COUNT SEED LEAVES WORKERS   COUNT binaries of some bytes as aa/bb/cc/<sha1>, in the order of chance in
 *     which they would arrive; prints how many files, bytes and directories. With LEAVES other than 0 only names are
 *     kept that fall into so many of the 2^24 possible directories, chosen evenly: a store of that many files has then
 *     fewer directories than chance gives.
 * tree walk DIR THREADS names|sizes   Each thread takes the next directory of the first level and goes through all
 *     below it: openat and getdents64, in the order the file system gives, and for `sizes` an fstatat of each file;
 *     prints files, directories and bytes.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

struct totals { atomic_ulong files, bytes, directories; };

static void fail(const char *what) {
    fprintf(stderr, "tree: %s: %s\n", what, strerror(errno));
    _exit(1);
}

/* SHA-1 of a text that fits into one block. */
static void sha1(const char *text, size_t length, unsigned char digest[20]) {
    uint32_t w[80], h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    unsigned char block[64] = {0};
    memcpy(block, text, length);
    block[length] = 0x80;
    block[62] = (unsigned char)(length >> 5);
    block[63] = (unsigned char)(length << 3);
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | block[4 * i + 1] << 16 | block[4 * i + 2] << 8 | block[4 * i + 3];
#define ROL(x, n) ((x) << (n) | (x) >> (32 - (n)))
    for (int i = 16; i < 80; i++) w[i] = ROL(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? ((b & c) | (~b & d)) + 0x5A827999 : i < 40 ? (b ^ c ^ d) + 0x6ED9EBA1
                   : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDC : (b ^ c ^ d) + 0xCA62C1D6;
        uint32_t t = ROL(a, 5) + f + e + w[i];
        e = d; d = c; c = ROL(b, 30); b = a; a = t;
    }
    h[0] += a; h[1] += b; h[2] += c; h[3] += d; h[4] += e;
    for (int i = 0; i < 20; i++) digest[i] = (unsigned char)(h[i / 4] >> (24 - 8 * (i % 4)));
}

static int make_directory(int root, const char *path, int length, struct totals *totals) {
    char part[16];
    memcpy(part, path, (size_t)length);
    part[length] = 0;
    if (mkdirat(root, part, 0755) == 0) { atomic_fetch_add(&totals->directories, 1); return 0; }
    if (errno == EEXIST) return 0;
    if (errno != ENOENT || length <= 2) return -1;
    return make_directory(root, path, length - 3, totals) || make_directory(root, path, length, totals) ? -1 : 0;
}

static void make_some(int root, long count, long seed, uint32_t leaves, long worker, long workers, struct totals *totals) {
    unsigned long bytes = 0;
    for (long number = worker; count > 0; number += workers) {
        char body[56], path[64];
        unsigned char digest[20];
        int length = snprintf(body, sizeof body, "binary %ld of store %ld\n", number, seed);
        sha1(body, (size_t)length, digest);
        uint32_t leaf = (uint32_t)digest[0] << 16 | digest[1] << 8 | digest[2];
        /* An odd factor maps the 2^24 directories onto themselves, so that those below the bound lie everywhere. */
        if (leaves && ((leaf * 2654435761u) & 0xffffff) >= leaves) continue;
        int at = snprintf(path, sizeof path, "%02x/%02x/%02x/", digest[0], digest[1], digest[2]);
        for (int i = 0; i < 20; i++) snprintf(path + at + 2 * i, 3, "%02x", digest[i]);
        int file = openat(root, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        if (file < 0 && errno == ENOENT) {
            if (make_directory(root, path, 8, totals)) fail("make a directory");
            file = openat(root, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
        }
        if (file < 0) fail(path);
        if (write(file, body, (size_t)length) != length) fail("write");
        close(file);
        bytes += (unsigned long)length;
        count--;
        atomic_fetch_add(&totals->files, 1);
    }
    atomic_fetch_add(&totals->bytes, bytes);
}

static int make(char **arguments) {
    int root = open(arguments[0], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0) fail(arguments[0]);
    long count = atol(arguments[1]), seed = atol(arguments[2]), workers = atol(arguments[4]);
    uint32_t leaves = (uint32_t)atol(arguments[3]);
    struct totals *totals = mmap(NULL, sizeof *totals, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (totals == MAP_FAILED) fail("mmap");
    for (long worker = 0; worker < workers; worker++) {
        pid_t child = fork();
        if (child < 0) fail("fork");
        if (child == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            make_some(root, count / workers + (worker < count % workers), seed, leaves, worker, workers, totals);
            _exit(0);
        }
    }
    for (int status; wait(&status) > 0;)
        if (status) return 1;
    printf("%lu %lu %lu\n", totals->files, totals->bytes, totals->directories);
    return 0;
}

struct walk { int root, sizes; char (*first)[256]; size_t firsts; atomic_size_t next; struct totals totals; };

struct entry { uint64_t inode; int64_t offset; unsigned short length; unsigned char type; char name[]; };

static void walk_below(struct walk *walk, int directory, unsigned long *files, unsigned long *bytes, unsigned long *directories) {
    _Alignas(8) char buffer[16384];
    for (;;) {
        long read = syscall(SYS_getdents64, directory, buffer, sizeof buffer);
        if (read < 0) fail("getdents64");
        if (read == 0) break;
        for (long at = 0; at < read;) {
            struct entry *entry = (struct entry *)(buffer + at);
            at += entry->length;
            if (entry->name[0] == '.') continue;
            if (entry->type == DT_DIR) {
                int below = openat(directory, entry->name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
                if (below < 0) fail(entry->name);
                ++*directories;
                walk_below(walk, below, files, bytes, directories);
                close(below);
            } else {
                ++*files;
                if (walk->sizes) {
                    struct stat stat;
                    if (fstatat(directory, entry->name, &stat, AT_SYMLINK_NOFOLLOW)) fail(entry->name);
                    *bytes += (unsigned long)stat.st_size;
                }
            }
        }
    }
}

static void *walk_some(void *of) {
    struct walk *walk = of;
    unsigned long files = 0, bytes = 0, directories = 0;
    for (size_t at; (at = atomic_fetch_add(&walk->next, 1)) < walk->firsts;) {
        int below = openat(walk->root, walk->first[at], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (below < 0) fail(walk->first[at]);
        directories++;
        walk_below(walk, below, &files, &bytes, &directories);
        close(below);
    }
    atomic_fetch_add(&walk->totals.files, files);
    atomic_fetch_add(&walk->totals.bytes, bytes);
    atomic_fetch_add(&walk->totals.directories, directories);
    return NULL;
}

static int walk(char **arguments) {
    static struct walk walk;
    long threads = atol(arguments[1]);
    walk.sizes = !strcmp(arguments[2], "sizes");
    DIR *top = opendir(arguments[0]);
    if (!top) fail(arguments[0]);
    for (struct dirent *entry; (entry = readdir(top));) {
        if (entry->d_name[0] == '.' || entry->d_type != DT_DIR) continue;
        walk.first = realloc(walk.first, (walk.firsts + 1) * sizeof *walk.first);
        if (!walk.first) fail("realloc");
        strcpy(walk.first[walk.firsts++], entry->d_name);
    }
    walk.root = dirfd(top);
    pthread_t ids[64];
    if (threads < 1 || threads > 64) { fputs("tree: 1 to 64 threads\n", stderr); return 2; }
    for (long at = 0; at < threads; at++)
        if (pthread_create(&ids[at], NULL, walk_some, &walk)) fail("pthread_create");
    for (long at = 0; at < threads; at++) pthread_join(ids[at], NULL);
    printf("%lu %lu %lu\n", walk.totals.files, walk.totals.bytes, walk.totals.directories);
    return 0;
}

int main(int count, char **arguments) {
    if (count == 7 && !strcmp(arguments[1], "make")) return make(arguments + 2);
    if (count == 5 && !strcmp(arguments[1], "walk")) return walk(arguments + 2);
    fputs("usage: tree make DIR COUNT SEED LEAVES WORKERS\n       tree walk DIR THREADS names|sizes\n", stderr);
    return 2;
}
