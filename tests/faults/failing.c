/* Preloaded into a process: makes its calls to the file system fail, or ends it, at a chosen one of them, and turns its
   clock. Calls are counted that change something under a chosen folder; nothing else is touched. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { GROWS = 1, CHANGES = 2 }; /* what a full disk refuses; what only one refuses that cannot be written at all */
enum { KILL = -1 };

static char place[PATH_MAX];
static size_t place_length;
static atomic_long counted, readings;
static long chosen = -1;
static int failure, refused;
static long turned[64], turns;

/* From call number `at` on (0: never): `error` is an errno, or KILL. `kinds` that are refused from then on; 0 for that
   call alone, of whatever kind. */
void failing_arm(const char *folder, long at, int error, int kinds) {
  snprintf(place, sizeof place, "%s", folder);
  place_length = strlen(place);
  counted = 0;
  failure = error;
  refused = kinds;
  chosen = at;
}

long failing_count(void) { return counted; }

/* Every eleventh reading of the clock adds the next of these seconds. */
void failing_clock(const long *seconds, long count) {
  for (turns = 0; turns < count && turns < 64; turns++) turned[turns] = seconds[turns];
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int within(const char *path) {
  return strncmp(path, place, place_length) == 0 && (path[place_length] == '/' || !path[place_length]);
}

static int within_descriptor(int descriptor) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return within(path);
}

static int within_folder(int folder, const char *path) {
  if (path[0] == '/') return within(path);
  if (folder != AT_FDCWD) return within_descriptor(folder);
  char here[PATH_MAX];
  return getcwd(here, sizeof here) && within(here);
}

/* Whether this call is to fail; errno is set then. */
static int fails(int kind) {
  long number = ++counted;
  if (chosen <= 0 || number < chosen) return 0;
  if (refused ? !(refused & kind) : number != chosen) return 0;
  if (failure == KILL) kill(getpid(), SIGKILL);
  errno = failure;
  return 1;
}

#define ARMED (chosen >= 0)
#define FAILS_AT(folder, path, kind) (ARMED && within_folder(folder, path) && fails(kind))
#define FAILS_IN(descriptor, kind) (ARMED && within_descriptor(descriptor) && fails(kind))

static int writes(int flags) { return (flags & (O_CREAT | O_TRUNC)) || (flags & O_ACCMODE) != O_RDONLY; }

#define OPEN(name)                                                                        \
  int name(const char *path, int flags, ...) {                                            \
    va_list more;                                                                         \
    va_start(more, flags);                                                                \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;               \
    va_end(more);                                                                         \
    if (writes(flags) && FAILS_AT(AT_FDCWD, path, GROWS)) return -1;                      \
    return ((int (*)(const char *, int, mode_t))dlsym(RTLD_NEXT, #name))(path, flags, mode); \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                               \
  int name(int folder, const char *path, int flags, ...) {                                         \
    va_list more;                                                                                  \
    va_start(more, flags);                                                                         \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;                        \
    va_end(more);                                                                                  \
    if (writes(flags) && FAILS_AT(folder, path, GROWS)) return -1;                                 \
    return ((int (*)(int, const char *, int, mode_t))dlsym(RTLD_NEXT, #name))(folder, path, flags, mode); \
  }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                              \
  FILE *name(const char *path, const char *mode) {                               \
    if (strpbrk(mode, "wa+") && FAILS_AT(AT_FDCWD, path, GROWS)) return NULL;    \
    return ((FILE * (*)(const char *, const char *)) dlsym(RTLD_NEXT, #name))(path, mode); \
  }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int descriptor, const void *data, size_t size) {
  return FAILS_IN(descriptor, GROWS) ? -1 : REAL(write)(descriptor, data, size);
}
ssize_t writev(int descriptor, const struct iovec *parts, int count) {
  return FAILS_IN(descriptor, GROWS) ? -1 : REAL(writev)(descriptor, parts, count);
}
ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t offset) {
  return FAILS_IN(descriptor, GROWS) ? -1 : REAL(pwrite64)(descriptor, data, size, offset);
}
int ftruncate64(int descriptor, off64_t size) {
  return FAILS_IN(descriptor, GROWS) ? -1 : REAL(ftruncate64)(descriptor, size);
}
int mkdir(const char *path, mode_t mode) {
  return FAILS_AT(AT_FDCWD, path, GROWS) ? -1 : REAL(mkdir)(path, mode);
}
int symlink(const char *target, const char *path) {
  return FAILS_AT(AT_FDCWD, path, GROWS) ? -1 : REAL(symlink)(target, path);
}
int link(const char *target, const char *path) {
  return FAILS_AT(AT_FDCWD, path, GROWS) ? -1 : REAL(link)(target, path);
}
int rename(const char *from, const char *to) {
  return FAILS_AT(AT_FDCWD, to, CHANGES) ? -1 : REAL(rename)(from, to);
}
int chmod(const char *path, mode_t mode) {
  return FAILS_AT(AT_FDCWD, path, CHANGES) ? -1 : REAL(chmod)(path, mode);
}
int unlink(const char *path) { return FAILS_AT(AT_FDCWD, path, CHANGES) ? -1 : REAL(unlink)(path); }
int rmdir(const char *path) { return FAILS_AT(AT_FDCWD, path, CHANGES) ? -1 : REAL(rmdir)(path); }
int unlinkat(int folder, const char *path, int flags) {
  return FAILS_AT(folder, path, CHANGES) ? -1 : REAL(unlinkat)(folder, path, flags);
}

static long turn(void) { return turns ? turned[readings++ / 11 % turns] : 0; }

int clock_gettime(clockid_t which, struct timespec *now) {
  int status = REAL(clock_gettime)(which, now);
  if (!status && which == CLOCK_REALTIME) now->tv_sec += turn();
  return status;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  int status = REAL(gettimeofday)(now, zone);
  if (!status) now->tv_sec += turn();
  return status;
}
time_t time(time_t *now) {
  time_t seconds = REAL(time)(NULL) + turn();
  if (now) *now = seconds;
  return seconds;
}
