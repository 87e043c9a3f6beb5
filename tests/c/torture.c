/* Makes the n-th operation on files fail, or ends the process there: LD_PRELOAD of
 * tools/torture.py. Operations on paths below the prefixes count, and on descriptors of
 * such files, whoever does them: Python, HDF5, TensorFlow. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { KILLED = 137, MAX_PREFIXES = 4 };

static char prefixes[MAX_PREFIXES][PATH_MAX];
static int prefix_count;
static atomic_long counted, failing; /* failing: 0 = off, else the n-th, or never */
static int kills;
static char name_of_it[64];

/* Count from now on; the n-th fails (n < 1: none), or ends the process. */
void torture_arm(long n, int kill) {
  counted = 0;
  kills = kill;
  name_of_it[0] = '\0';
  failing = n < 1 ? LONG_MAX : n;
}

/* Returns how many there were. */
long torture_disarm(void) {
  failing = 0;
  return counted;
}

int torture_prefix(const char *path) {
  if (prefix_count == MAX_PREFIXES || strlen(path) >= PATH_MAX) return -1;
  strcpy(prefixes[prefix_count++], path);
  return 0;
}

const char *torture_name(void) {
  return name_of_it;
}

/* Whether the operation at hand is the one. */
int torture_tick(const char *name) {
  if (failing == 0 || atomic_fetch_add(&counted, 1) + 1 != failing) return 0;
  snprintf(name_of_it, sizeof name_of_it, "%s", name);
  return 1;
}

static int inside(const char *path) {
  if (failing == 0 || path == NULL) return 0;
  for (int i = 0; i < prefix_count; i++) {
    if (strncmp(path, prefixes[i], strlen(prefixes[i])) == 0) return 1;
  }
  return 0;
}

static int inside_fd(int fd) {
  if (failing == 0) return 0;
  char link[32], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  const ssize_t n = readlink(link, path, sizeof path - 1);
  if (n < 0) return 0;
  path[n] = '\0';
  return inside(path);
}

static int fails(int counts, const char *name, int error) {
  if (!counts || !torture_tick(name)) return 0;
  if (kills) _exit(KILLED);
  errno = error;
  return 1;
}

#define NEXT(type, name, ...)       \
  static type (*next)(__VA_ARGS__); \
  if (next == NULL) next = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OPEN(symbol)                                                          \
  int symbol(const char *path, int flags, ...) {                              \
    va_list list;                                                             \
    va_start(list, flags);                                                    \
    const mode_t mode =                                                       \
        (flags & (O_CREAT | O_TMPFILE)) ? (mode_t)va_arg(list, int) : 0;      \
    va_end(list);                                                             \
    NEXT(int, #symbol, const char *, int, ...);                               \
    const int writes = (flags & (O_WRONLY | O_RDWR)) != 0;                    \
    if (fails(inside(path), writes ? "open for writing" : "open for reading", \
              writes ? ENOSPC : EIO)) {                                       \
      return -1;                                                              \
    }                                                                         \
    return next(path, flags, mode);                                           \
  }
OPEN(open)
OPEN(open64)

#define FOPEN(symbol)                                                             \
  FILE *symbol(const char *path, const char *mode) {                              \
    NEXT(FILE *, #symbol, const char *, const char *);                            \
    if (fails(inside(path), "fopen", mode[0] == 'r' ? EIO : ENOSPC)) return NULL; \
    return next(path, mode);                                                      \
  }
FOPEN(fopen)
FOPEN(fopen64)

/* Half of it arrives. */
ssize_t write(int fd, const void *from, size_t n) {
  NEXT(ssize_t, "write", int, const void *, size_t);
  const int counts = inside_fd(fd);
  if (!counts || !torture_tick("write")) return next(fd, from, n);
  if (n > 1) (void)!next(fd, from, n / 2);
  if (kills) _exit(KILLED);
  errno = ENOSPC;
  return -1;
}

size_t fwrite(const void *from, size_t size, size_t n, FILE *file) {
  NEXT(size_t, "fwrite", const void *, size_t, size_t, FILE *);
  if (fails(inside_fd(fileno(file)), "fwrite", ENOSPC)) return 0;
  return next(from, size, n, file);
}

#define PWRITE(symbol)                                           \
  ssize_t symbol(int fd, const void *from, size_t n, off_t at) { \
    NEXT(ssize_t, #symbol, int, const void *, size_t, off_t);    \
    if (fails(inside_fd(fd), "pwrite", ENOSPC)) return -1;       \
    return next(fd, from, n, at);                                \
  }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t read(int fd, void *to, size_t n) {
  NEXT(ssize_t, "read", int, void *, size_t);
  if (fails(inside_fd(fd), "read", EIO)) return -1;
  return next(fd, to, n);
}

#define PREAD(symbol)                                    \
  ssize_t symbol(int fd, void *to, size_t n, off_t at) { \
    NEXT(ssize_t, #symbol, int, void *, size_t, off_t);  \
    if (fails(inside_fd(fd), "pread", EIO)) return -1;   \
    return next(fd, to, n, at);                          \
  }
PREAD(pread)
PREAD(pread64)

#define SENDFILE(symbol)                                     \
  ssize_t symbol(int to, int from, off_t *at, size_t n) {    \
    NEXT(ssize_t, #symbol, int, int, off_t *, size_t);       \
    if (fails(inside_fd(to), "sendfile", ENOSPC)) return -1; \
    return next(to, from, at, n);                            \
  }
SENDFILE(sendfile)
SENDFILE(sendfile64)

#define TRUNCATE(symbol)                                      \
  int symbol(int fd, off_t n) {                               \
    NEXT(int, #symbol, int, off_t);                           \
    if (fails(inside_fd(fd), "ftruncate", ENOSPC)) return -1; \
    return next(fd, n);                                       \
  }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

/* Returns its error. */
#define FALLOCATE(symbol)                                               \
  int symbol(int fd, off_t at, off_t n) {                               \
    NEXT(int, #symbol, int, off_t, off_t);                              \
    if (fails(inside_fd(fd), "posix_fallocate", ENOSPC)) return ENOSPC; \
    return next(fd, at, n);                                             \
  }
FALLOCATE(posix_fallocate)
FALLOCATE(posix_fallocate64)

int fsync(int fd) {
  NEXT(int, "fsync", int);
  if (fails(inside_fd(fd), "fsync", EIO)) return -1;
  return next(fd);
}

int rename(const char *from, const char *to) {
  NEXT(int, "rename", const char *, const char *);
  if (fails(inside(to), "rename", EIO)) return -1;
  return next(from, to);
}

int mkdir(const char *path, mode_t mode) {
  NEXT(int, "mkdir", const char *, mode_t);
  if (fails(inside(path), "mkdir", ENOSPC)) return -1;
  return next(path, mode);
}

int unlink(const char *path) {
  NEXT(int, "unlink", const char *);
  if (fails(inside(path), "unlink", EIO)) return -1;
  return next(path);
}
