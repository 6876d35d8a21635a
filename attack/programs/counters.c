/* What the kernel counts by user: takes all there is of it, in as many processes as that needs. */
#include "attack.h"
#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/resource.h>

static void no_limits(void) {
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
}

/* COUNT */
static int inotify(int argc, char **argv) {
  no_limits();
  for (int at = 0, most = argc > 0 ? atoi(argv[0]) : 4096; at < most; at++)
    if (inotify_init1(0) < 0) break;
  return hold();
}

/* COUNT: signals that wait, in processes that never take them. */
static int signals(int argc, char **argv) {
  int most = argc > 0 ? atoi(argv[0]) : 1 << 20;
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, 0);
  struct rlimit waiting;
  getrlimit(RLIMIT_SIGPENDING, &waiting);
  waiting.rlim_cur = waiting.rlim_max;
  setrlimit(RLIMIT_SIGPENDING, &waiting);
  for (int at = 0; at < most; at++)
    if (sigqueue(getpid(), SIGRTMIN, (union sigval){0}) < 0) break;
  return hold();
}

/* COUNT: pipes made large. */
static int pipes(int argc, char **argv) {
  no_limits();
  int ends[2];
  for (int at = 0, most = argc > 0 ? atoi(argv[0]) : 256; at < most; at++)
    if (pipe(ends) < 0 || fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) < 0) break;
  return hold();
}

/* COUNT */
static int terminals(int argc, char **argv) {
  no_limits();
  for (int at = 0, most = argc > 0 ? atoi(argv[0]) : 4096; at < most; at++)
    if (open("/dev/ptmx", O_RDWR | O_NOCTTY) < 0) break;
  return hold();
}

/* COUNT: message queues. */
static int queues(int argc, char **argv) {
  char name[32];
  struct rlimit bytes = {RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MSGQUEUE, &bytes);
  for (int at = 0, most = argc > 0 ? atoi(argv[0]) : 1024; at < most; at++) {
    snprintf(name, sizeof name, "/delta-%d", at);
    struct mq_attr size = {.mq_maxmsg = 10, .mq_msgsize = 8192};
    if (mq_open(name, O_CREAT | O_RDWR, 0600, &size) == (mqd_t)-1) break;
  }
  return hold();
}

const struct program counters[] = {
    {"take-inotify", inotify}, {"take-signals", signals}, {"take-pipes", pipes}, {"take-terminals", terminals}, {"take-queues", queues}, {0, 0},
};
