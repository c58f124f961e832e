/* Lets one write of a process be a short one: the SHIM_NTH-th call of SHIM_CALL writes half of what it is given, says
 * so, and leaves a mark in the file SHIM_MARK. Loaded before libc with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static long calls;

static size_t half(const char *call, size_t bytes) {
    const char *wanted = getenv("SHIM_CALL"), *nth = getenv("SHIM_NTH"), *mark = getenv("SHIM_MARK");
    if (!wanted || !nth || !mark || strcmp(wanted, call) || ++calls != atol(nth) || bytes < 2) return bytes;
    long file = syscall(SYS_openat, AT_FDCWD, mark, O_WRONLY | O_CREAT, 0600);
    if (file >= 0) syscall(SYS_close, file);
    return bytes / 2;
}

ssize_t write(int file, const void *bytes, size_t count) { return syscall(SYS_write, file, bytes, half("write", count)); }

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    return syscall(SYS_pwrite64, file, bytes, half("pwrite64", count), at);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) { return pwrite64(file, bytes, count, at); }

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t count, unsigned flags) {
    return syscall(SYS_copy_file_range, in, from, out, to, half("copy_file_range", count), flags);
}
