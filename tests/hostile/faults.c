/* Faults on demand: loaded into a program in front of the C library, it counts whatever changes a
 * file below one folder, and at the n-th such call fails with an errno, or kills the process:
 * before the call, or (of a write) when half of it is done. It can also let the clock jump. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { KILL = -1, TEAR = -2 };

static char folder[PATH_MAX];
static long at, count;
static int action, log_fd = -1, jumping;

void faults_arm(const char *under, long nth, int what, int log_to) {
  strncpy(folder, under, sizeof folder - 1);
  at = nth, action = what, log_fd = log_to, count = 0;
}

void faults_jump(int on) { jumping = on; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* The path below the folder, or NULL where it is not there. */
static const char *below(const char *path) {
  static __thread char whole[2 * PATH_MAX];
  if (!folder[0] || !path) return NULL;
  if (path[0] != '/') {
    if (!getcwd(whole, PATH_MAX)) return NULL;
    strcat(whole, "/");
    strncat(whole, path, PATH_MAX - 2);
    path = whole;
  }
  return strncmp(path, folder, strlen(folder)) ? NULL : path + strlen(folder);
}

/* Count a call; 0: let it through, 1: it fails (errno is set), 2: it is to be torn. */
static int strike(const char *call, const char *path) {
  const char *name = below(path);
  if (!name) return 0;
  long n = __sync_add_and_fetch(&count, 1);
  if (log_fd >= 0) dprintf(log_fd, "%ld %s %s\n", n, call, name);
  if (n != at) return 0;
  if (action == TEAR && strstr(call, "write")) return 2;
  if (action < 0) kill(getpid(), SIGKILL);
  errno = action;
  return 1;
}

static int strike_fd(const char *call, int fd) {
  char link[64], path[PATH_MAX];
  int before = errno;
  if (!folder[0]) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  errno = before;
  if (n < 0) return 0;
  path[n] = 0;
  return strike(call, path);
}

#define ON_FD(type, name, parameters, ...)                   \
  type name parameters {                                     \
    if (strike_fd(#name, fd)) return -1;                     \
    return REAL(name)(__VA_ARGS__);                          \
  }
#define ON_PATH(name, parameters, ...)                       \
  int name parameters {                                      \
    if (strike(#name, path)) return -1;                      \
    return REAL(name)(__VA_ARGS__);                          \
  }

ssize_t write(int fd, const void *data, size_t n) {
  int struck = strike_fd("write", fd);
  if (struck == 1) return -1;
  ssize_t written = REAL(write)(fd, data, struck ? n / 2 : n);
  if (struck) kill(getpid(), SIGKILL);
  return written;
}

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t where) {
  int struck = strike_fd("pwrite64", fd);
  if (struck == 1) return -1;
  ssize_t written = REAL(pwrite64)(fd, data, struck ? n / 2 : n, where);
  if (struck) kill(getpid(), SIGKILL);
  return written;
}

ON_FD(int, fsync, (int fd), fd)
ON_FD(int, fdatasync, (int fd), fd)
ON_FD(int, ftruncate64, (int fd, off64_t n), fd, n)
ON_FD(ssize_t, sendfile64, (int fd, int from, off64_t *where, size_t n), fd, from, where, n)
ON_PATH(rename, (const char *from, const char *path), from, path)
ON_PATH(link, (const char *from, const char *path), from, path)
ON_PATH(linkat, (int a, const char *from, int b, const char *path, int flags), a, from, b, path,
        flags)
ON_PATH(symlink, (const char *to, const char *path), to, path)
ON_PATH(unlink, (const char *path), path)
ON_PATH(mkdir, (const char *path, mode_t mode), path, mode)
ON_PATH(chmod, (const char *path, mode_t mode), path, mode)

#define OPENS(name)                                                       \
  int name(const char *path, int flags, ...) {                            \
    va_list rest;                                                         \
    va_start(rest, flags);                                                \
    mode_t mode = va_arg(rest, mode_t);                                   \
    va_end(rest);                                                         \
    if ((flags & (O_CREAT | O_WRONLY | O_RDWR)) && strike(#name, path)) return -1; \
    return REAL(name)(path, flags, mode);                                 \
  }
OPENS(open)
OPENS(open64)

/* A clock that is set a day on and a day back in turn, as by a battery or a time server. */
int clock_gettime(clockid_t clock, struct timespec *now) {
  int found = REAL(clock_gettime)(clock, now);
  if (jumping && clock == CLOCK_REALTIME) now->tv_sec += (jumping = -jumping) * 86400L;
  return found;
}
