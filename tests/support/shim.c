/* Stands between a program and the C library, and lets one chosen call do less than it was asked for.
 *
 * Loaded with LD_PRELOAD; PALACE_SHIM says what happens: "KIND CALL N EXTENT FILE", where KIND is `census`, `short`
 * or `alloc`, EXTENT is `once` or `from`, and FILE is where calls are written down, one a line and like
 * strace does. A write-like call is cut to half of what it could have done. An allocation returns nothing; CALL is
 * the number of write calls behind which allocations are counted: how many there are in all depends on how many
 * processes the program looks at, how many there are between two writes hardly does.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);

enum kind { OFF, CENSUS, SHORT, ALLOC };

static enum kind kind;
static char wanted[32];
static unsigned long nth;
static int lasts;
static int log_fd = -1;
static unsigned long allocations;
static unsigned long writes, after;

static const char *const NAMES[] = {"write", "pwrite64", "writev", "pwritev", "copy_file_range", "sendfile"};
enum { CALLS = sizeof NAMES / sizeof *NAMES };
static unsigned long counts[CALLS];

__attribute__((constructor)) static void begin(void) {
    char what[16] = "", extent[8] = "", path[PATH_MAX] = "";
    const char *text = getenv("PALACE_SHIM");
    if (!text || sscanf(text, "%15s %31s %lu %7s %4095[^\n]", what, wanted, &nth, extent, path) != 5)
        return;
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, 500); /* out of the way of whoever counts descriptors */
    close(fd);
    lasts = !strcmp(extent, "from");
    after = strtoul(wanted, NULL, 10);
    kind = !strcmp(what, "census") ? CENSUS : !strcmp(what, "short") ? SHORT : ALLOC;
}

static void note(const char *line, int length) {
    if (log_fd >= 0 && length > 0)
        syscall(SYS_write, log_fd, line, (size_t)length);
}

static int is_hit(unsigned long number) { return lasts ? number >= nth : number == nth; }

/* How much of a call is carried out. What is one byte, or none, cannot be done by half. */
static size_t cut(const char *name, int fd, size_t count) {
    if ((kind != CENSUS && kind != SHORT) || count < 2)
        return count;
    unsigned long number = 0;
    for (int index = 0; index < CALLS; index++)
        if (!strcmp(NAMES[index], name))
            number = __atomic_add_fetch(&counts[index], 1, __ATOMIC_SEQ_CST);
    int fires = kind == SHORT && (!strcmp(wanted, "*") || !strcmp(wanted, name)) && is_hit(number);
    size_t done = fires ? count / 2 : count;
    char link[64], path[PATH_MAX], line[PATH_MAX + 128], remark[64] = " (INJECTED)";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    if (kind == CENSUS)
        snprintf(remark, sizeof remark, " after %lu allocations", allocations);
    if (fires || kind == CENSUS)
        note(line, snprintf(line, sizeof line, "%d %s(%d<%s>, %zu) = %zu%s\n", getpid(), name, fd, path, count, done,
                            remark));
    return done;
}

ssize_t write(int fd, const void *bytes, size_t count) {
    ssize_t done = syscall(SYS_write, fd, bytes, cut("write", fd, count));
    if (count > 1 && __atomic_add_fetch(&writes, 1, __ATOMIC_SEQ_CST) == after)
        __atomic_store_n(&allocations, 0, __ATOMIC_SEQ_CST);
    return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    return syscall(SYS_pwrite64, fd, bytes, cut("pwrite64", fd, count), at);
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) { return pwrite64(fd, bytes, count, at); }

/* Half of a list is its first part that is not empty, or half of that. */
static size_t cut_parts(const char *name, int fd, const struct iovec *parts, int count, struct iovec *first) {
    size_t all = 0;
    *first = (struct iovec){0};
    for (int index = 0; index < count; index++) {
        if (!first->iov_len)
            *first = parts[index];
        all += parts[index].iov_len;
    }
    size_t done = cut(name, fd, all);
    if (done < all && done < first->iov_len)
        first->iov_len = done;
    return all - done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    struct iovec first;
    return cut_parts("writev", fd, parts, count, &first) ? syscall(SYS_writev, fd, &first, 1)
                                                         : syscall(SYS_writev, fd, parts, count);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    struct iovec first;
    return cut_parts("pwritev", fd, parts, count, &first) ? syscall(SYS_pwritev, fd, &first, 1, at, 0)
                                                          : syscall(SYS_pwritev, fd, parts, count, at, 0);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { return pwritev64(fd, parts, count, at); }

/* A copy is asked for more than there is: what counts is how much there is. */
static size_t cut_copy(const char *name, int from, const off64_t *at, int to, size_t count) {
    struct stat64 file;
    off64_t here = at ? *at : lseek64(from, 0, SEEK_CUR);
    if (fstat64(from, &file) || !S_ISREG(file.st_mode) || here < 0 || here >= file.st_size)
        return count;
    size_t left = (size_t)(file.st_size - here);
    size_t could = count < left ? count : left, done = cut(name, to, could);
    return done < could ? done : count;
}

ssize_t copy_file_range(int from, off64_t *in, int to, off64_t *out, size_t count, unsigned flags) {
    return syscall(SYS_copy_file_range, from, in, to, out, cut_copy("copy_file_range", from, in, to, count), flags);
}

ssize_t sendfile64(int to, int from, off64_t *at, size_t count) {
    return syscall(SYS_sendfile, to, from, at, cut_copy("sendfile", from, at, to, count));
}

ssize_t sendfile(int to, int from, off_t *at, size_t count) { return sendfile64(to, from, (off64_t *)at, count); }

/* Whether this allocation fails. What is allocated before the constructor ran is the loader's and nobody's here. */
static int is_denied(size_t bytes) {
    if (kind != CENSUS && kind != ALLOC)
        return 0;
    unsigned long number = __atomic_add_fetch(&allocations, 1, __ATOMIC_SEQ_CST);
    if (kind != ALLOC || writes < after || !is_hit(number))
        return 0;
    char line[96];
    note(line, snprintf(line, sizeof line, "%d malloc(%zu) = NULL (INJECTED)\n", getpid(), bytes));
    errno = ENOMEM;
    return 1;
}

void *malloc(size_t bytes) { return is_denied(bytes) ? NULL : __libc_malloc(bytes); }

void *calloc(size_t count, size_t bytes) { return is_denied(count * bytes) ? NULL : __libc_calloc(count, bytes); }

void *realloc(void *old, size_t bytes) { return bytes && is_denied(bytes) ? NULL : __libc_realloc(old, bytes); }

void *memalign(size_t alignment, size_t bytes) { return is_denied(bytes) ? NULL : __libc_memalign(alignment, bytes); }

void *aligned_alloc(size_t alignment, size_t bytes) { return memalign(alignment, bytes); }

int posix_memalign(void **result, size_t alignment, size_t bytes) {
    void *memory = memalign(alignment, bytes);
    if (!memory)
        return ENOMEM;
    *result = memory;
    return 0;
}
