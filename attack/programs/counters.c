/* What the kernel counts by user: takes all there is of it, in as many processes as that needs. */
#include "attack.h"
#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>

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

/* COUNT: message queues, held by their descriptors alone, so that none outlives its holder. */
static int queues(int argc, char **argv) {
  char name[32];
  struct rlimit bytes = {RLIM_INFINITY, RLIM_INFINITY};
  no_limits();
  setrlimit(RLIMIT_MSGQUEUE, &bytes);
  for (int at = 0, most = argc > 0 ? atoi(argv[0]) : 1024; at < most; at++) {
    snprintf(name, sizeof name, "/delta-%d-%d", getpid(), at);
    struct mq_attr size = {.mq_maxmsg = 10, .mq_msgsize = 8192};
    if (mq_open(name, O_CREAT | O_RDWR, 0600, &size) == (mqd_t)-1) break;
    mq_unlink(name);
  }
  return hold();
}

/* COUNT: keys, by each of the calls that make one; asking for one that is not there has the kernel start a program of the host's. */
static int keys_of_a_user(int argc, char **argv) {
  char name[32];
  syscall(SYS_keyctl, 1 /* JOIN_SESSION_KEYRING */, 0);
  syscall(SYS_request_key, "user", "delta-none", "x", -2);
  for (int at = 0, most = argc > 0 ? atoi(argv[0]) : 4096; at < most; at++) {
    snprintf(name, sizeof name, "delta-%d", at);
    if (syscall(SYS_add_key, "user", name, "x", 1, -2 /* KEY_SPEC_PROCESS_KEYRING */) < 0) break;
  }
  return hold();
}

/* All queues, semaphores and segments that System V names; they go with the namespace. */
static int system_v(int argc, char **argv) {
  (void)argc, (void)argv;
  while (msgget(IPC_PRIVATE, 0600) >= 0);
  while (semget(IPC_PRIVATE, 1, 0600) >= 0);
  while (shmget(IPC_PRIVATE, 4096, 0600) >= 0);
  return hold();
}

/* COUNT: things watched by epoll, a thousand by each of as many as that needs. */
static int watches(int argc, char **argv) {
  long most = argc > 0 ? atol(argv[0]) : 1 << 30;
  struct epoll_event event = {.events = EPOLLIN};
  int watched[1000], count = 0;
  no_limits();
  while (count < 1000 && (watched[count] = eventfd(0, 0)) >= 0) count++;
  for (long had = 0; had < most;) {
    int watcher = epoll_create1(0);
    if (watcher < 0) break;
    for (int at = 0; at < count; at++, had++)
      if (epoll_ctl(watcher, EPOLL_CTL_ADD, watched[at], &event) < 0) return hold();
  }
  return hold();
}

const struct program counters[] = {
    {"take-inotify", inotify}, {"take-signals", signals}, {"take-pipes", pipes}, {"take-terminals", terminals}, {"take-queues", queues},
    {"take-keys", keys_of_a_user}, {"take-ipc", system_v},     {"take-watches", watches}, {0, 0},
};
