/* Counts the calls that change files below a folder, and lets one of them fail or end the process.
 *
 * LD_PRELOADed; tests/faults/harness.py arms it in each child through ctypes. With a log it writes down
 * what each call has changed, so that a power failure after any of them can be played.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FDS 4096

static char root[PATH_MAX];
static char names[FDS][PATH_MAX]; /* of our open files, by descriptor */
static long count, at, last;
static int number, journal = -1;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* Fail from call `first` to call `end` with this errno; with number 0 kill the process there. */
void faults_arm(const char *folder, long first, long end, int error, const char *log) {
    snprintf(root, sizeof root, "%s/", folder);
    count = 0, at = first, last = end, number = error;
    memset(names, 0, sizeof names);
    journal = log && *log ? (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_TRUNC, 0644) : -1;
}

long faults_count(void) { return count; }

static int full(int dir, const char *path, char *out) {
    char base[PATH_MAX] = "";
    if (path[0] != '/') {
        if (dir == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else {
            char link[64];
            snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
            ssize_t n = readlink(link, base, sizeof base - 1);
            if (n < 0) return 0;
            base[n] = 0;
        }
    }
    snprintf(out, PATH_MAX, "%s%s%s", base, *base ? "/" : "", path);
    return root[0] && strncmp(out, root, strlen(root)) == 0;
}

/* Count a call; 1 if it shall fail. */
static int fault(void) {
    pthread_mutex_lock(&lock);
    long now = ++count;
    pthread_mutex_unlock(&lock);
    if (at && now >= at && now <= last) {
        if (!number) kill(getpid(), SIGKILL);
        errno = number;
        return 1;
    }
    return 0;
}

static void note(char what, const char *path, long place, const void *data, long size) {
    if (journal < 0) return;
    pthread_mutex_lock(&lock);
    dprintf(journal, "%ld %c %ld %ld %s\n", count, what, place, size, path + strlen(root));
    for (long done = 0; size && done < size;)
        done += syscall(SYS_write, journal, (const char *)data + done, size - done);
    pthread_mutex_unlock(&lock);
}

static int opened(int fd, const char *path, int flags) {
    if ((flags & O_TMPFILE) == O_TMPFILE) return fd; /* it has no name */
    if (fd >= 0 && fd < FDS) snprintf(names[fd], PATH_MAX, "%s", path);
    if (fd >= 0) note(flags & O_TRUNC ? 'T' : 'C', path, 0, 0, 0);
    return fd;
}

static int ours(int fd) { return fd >= 0 && fd < FDS && names[fd][0]; }

#define OPEN(symbol, has_dir, ...) \
    REAL(int, symbol, __VA_ARGS__); \
    char where[PATH_MAX]; \
    mode_t mode = 0; \
    if (flags & (O_CREAT | O_TMPFILE)) { \
        va_list more; \
        va_start(more, flags); \
        mode = va_arg(more, mode_t); \
        va_end(more); \
    } \
    int writes = (flags & O_ACCMODE) != O_RDONLY; \
    if (!writes || !full(has_dir, path, where)) return

int open(const char *path, int flags, ...) {
    OPEN("open", AT_FDCWD, const char *, int, ...) real(path, flags, mode);
    return fault() ? -1 : opened(real(path, flags, mode), where, flags);
}
int open64(const char *path, int flags, ...) {
    OPEN("open64", AT_FDCWD, const char *, int, ...) real(path, flags, mode);
    return fault() ? -1 : opened(real(path, flags, mode), where, flags);
}
int openat(int dir, const char *path, int flags, ...) {
    OPEN("openat", dir, int, const char *, int, ...) real(dir, path, flags, mode);
    return fault() ? -1 : opened(real(dir, path, flags, mode), where, flags);
}
int openat64(int dir, const char *path, int flags, ...) {
    OPEN("openat64", dir, int, const char *, int, ...) real(dir, path, flags, mode);
    return fault() ? -1 : opened(real(dir, path, flags, mode), where, flags);
}

int close(int fd) {
    REAL(int, "close", int);
    if (ours(fd)) names[fd][0] = 0;
    return real(fd);
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (!ours(fd)) return real(fd, data, size);
    if (fault()) return -1;
    int flags = fcntl(fd, F_GETFL);
    long place = lseek(fd, 0, flags & O_APPEND ? SEEK_END : SEEK_CUR);
    ssize_t done = real(fd, data, size);
    if (done > 0) note('W', names[fd], place, data, done);
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int n) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (!ours(fd)) return real(fd, parts, n);
    ssize_t done = 0;
    for (int i = 0; i < n; i++) {
        ssize_t one = write(fd, parts[i].iov_base, parts[i].iov_len);
        if (one < 0) return done ? done : -1;
        done += one;
    }
    return done;
}

#define SYNC(symbol) \
    int symbol(int fd) { \
        REAL(int, #symbol, int); \
        char link[64], path[PATH_MAX] = ""; \
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd); \
        ssize_t n = readlink(link, path, sizeof path - 2); \
        if (n < 0 || !root[0]) return real(fd); \
        path[n] = 0; \
        char with_slash[PATH_MAX + 1]; \
        snprintf(with_slash, sizeof with_slash, "%s/", path); \
        if (strncmp(with_slash, root, strlen(root))) return real(fd); \
        if (fault()) return -1; \
        struct stat about; \
        fstat(fd, &about); \
        int done = real(fd); \
        if (!done) note(S_ISDIR(about.st_mode) ? 'D' : 'S', with_slash, 0, 0, 0); \
        return done; \
    }
SYNC(fsync)
SYNC(fdatasync)

static int moved(int dir, const char *from, int to_dir, const char *to, char *a, char *b) {
    int first = full(dir, from, a), second = full(to_dir, to, b);
    return first || second;
}
static void note_move(const char *a, const char *b) {
    note('R', a, 0, b + strlen(root), (long)(strlen(b) - strlen(root)));
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    char a[PATH_MAX], b[PATH_MAX];
    if (!moved(AT_FDCWD, from, AT_FDCWD, to, a, b)) return real(from, to);
    if (fault()) return -1;
    int done = real(from, to);
    if (!done) note_move(a, b);
    return done;
}
int renameat(int dir, const char *from, int to_dir, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    char a[PATH_MAX], b[PATH_MAX];
    if (!moved(dir, from, to_dir, to, a, b)) return real(dir, from, to_dir, to);
    if (fault()) return -1;
    int done = real(dir, from, to_dir, to);
    if (!done) note_move(a, b);
    return done;
}

#define CHANGE(what, dir, call) \
    char where[PATH_MAX]; \
    if (!full(dir, path, where)) return call; \
    if (fault()) return -1; \
    int done = call; \
    if (!done) note(what, where, 0, 0, 0); \
    return done

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    CHANGE('U', AT_FDCWD, real(path));
}
int unlinkat(int dir, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    CHANGE(flags & AT_REMOVEDIR ? 'X' : 'U', dir, real(dir, path, flags));
}
int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    CHANGE('X', AT_FDCWD, real(path));
}
int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    CHANGE('M', AT_FDCWD, real(path, mode));
}
int mkdirat(int dir, const char *path, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    CHANGE('M', dir, real(dir, path, mode));
}
