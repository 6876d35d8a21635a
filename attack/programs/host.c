/* What the host itself needs to place a canary or to look at one. */
#include "attack.h"
#include <mqueue.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/timex.h>

/* SECRET: holds it in memory, says where, and says when someone has written there. */
static char held[64];
static int victim(int argc, char **argv) {
  if (argc < 1) return 64;
  prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
  snprintf(held, sizeof held, "%s", argv[0]);
  printf("%lx\n", (unsigned long)held);
  fflush(stdout);
  alarm(120);
  while (strncmp(held, argv[0], sizeof held) == 0) usleep(5000);
  printf("changed\n");
  fflush(stdout);
  pause();
  return 0;
}

/* PATH: its file handle, as TYPE:BYTES. */
static int show_handle(int argc, char **argv) {
  struct {
    struct file_handle head;
    unsigned char bytes[MAX_HANDLE_SZ];
  } found = {.head = {.handle_bytes = MAX_HANDLE_SZ}};
  int mount;
  if (argc < 1 || name_to_handle_at(AT_FDCWD, argv[0], &found.head, &mount, 0) < 0) return 1;
  printf("%x:", found.head.handle_type);
  for (unsigned at = 0; at < found.head.handle_bytes; at++) printf("%02x", found.head.f_handle[at]);
  return 0;
}

static int show_uid(int argc, char **argv) {
  (void)argc, (void)argv;
  printf("%d %d", geteuid(), getegid());
  return 0;
}

static int show_clock(int argc, char **argv) {
  struct timex now = {.modes = 0};
  if (argc > 0) {
    now.modes = ADJ_ESTERROR;
    now.esterror = atol(argv[0]);
  }
  if (adjtimex(&now) < 0) return 1;
  printf("%ld", now.esterror);
  return 0;
}

/* KEY SECRET: a segment of shared memory; removed when stdin ends. */
static int shared(int argc, char **argv) {
  if (argc < 2) return 64;
  int id = shmget(atoi(argv[0]), 4096, IPC_CREAT | IPC_EXCL | 0666);
  char *place = id < 0 ? (char *)-1 : shmat(id, 0, 0);
  if (place == (char *)-1) return 1;
  strcpy(place, argv[1]);
  hold();
  printf("%s\n", strcmp(place, argv[1]) == 0 ? "same" : "changed");
  shmctl(id, IPC_RMID, 0);
  return 0;
}

/* PID: family, kind and protocol of every socket it holds, asked of the kernel through a copy of the descriptor. */
static int show_sockets(int argc, char **argv) {
  for (int at = 0; at < argc; at++) {
    int process = (int)syscall(SYS_pidfd_open, atoi(argv[at]), 0);
    for (int fd = 0; process >= 0 && fd < 256; fd++) {
      int copy = (int)syscall(SYS_pidfd_getfd, process, fd, 0), family, kind, protocol;
      socklen_t length = sizeof family;
      if (copy < 0) continue;
      if (getsockopt(copy, SOL_SOCKET, SO_DOMAIN, &family, &length) == 0) {
        getsockopt(copy, SOL_SOCKET, SO_TYPE, &kind, &length);
        getsockopt(copy, SOL_SOCKET, SO_PROTOCOL, &protocol, &length);
        printf("%d %d %d\n", family, kind, protocol);
      }
      close(copy);
    }
  }
  return 0;
}

/* What one more of each costs whoever runs this: 1 where it is to be had. */
static int one_inotify(int argc, char **argv) {
  (void)argc, (void)argv;
  printf("%d", inotify_init1(0) >= 0);
  return 0;
}

static int one_signal(int argc, char **argv) {
  (void)argc, (void)argv;
  sigset_t all;
  sigfillset(&all);
  sigprocmask(SIG_BLOCK, &all, 0);
  printf("%d", sigqueue(getpid(), SIGRTMIN, (union sigval){0}) == 0);
  return 0;
}

/* A pipe of one MiB: 256 pages, of which an unprivileged user has so many. */
static int one_pipe(int argc, char **argv) {
  (void)argc, (void)argv;
  int ends[2];
  printf("%d", pipe(ends) == 0 && fcntl(ends[1], F_SETPIPE_SZ, 1 << 20) >= 1 << 20);
  return 0;
}

static int one_queue(int argc, char **argv) {
  (void)argc, (void)argv;
  char name[32];
  struct mq_attr size = {.mq_maxmsg = 10, .mq_msgsize = 8192};
  snprintf(name, sizeof name, "/delta-one-%d", getpid());
  int had = mq_open(name, O_CREAT | O_EXCL | O_RDWR, 0600, &size) != (mqd_t)-1;
  mq_unlink(name);
  printf("%d", had);
  return 0;
}

static int one_key(int argc, char **argv) {
  (void)argc, (void)argv;
  printf("%d", syscall(SYS_add_key, "user", "delta-one", "x", 1, -2) >= 0);
  return 0;
}

/* One of each of System V's. */
static int one_ipc(int argc, char **argv) {
  (void)argc, (void)argv;
  int queue = msgget(IPC_PRIVATE, 0600), semaphore = semget(IPC_PRIVATE, 1, 0600), segment = shmget(IPC_PRIVATE, 4096, 0600);
  printf("%d", queue >= 0 && semaphore >= 0 && segment >= 0);
  if (queue >= 0) msgctl(queue, IPC_RMID, 0);
  if (semaphore >= 0) semctl(semaphore, 0, IPC_RMID);
  if (segment >= 0) shmctl(segment, IPC_RMID, 0);
  return 0;
}

static int one_watch(int argc, char **argv) {
  (void)argc, (void)argv;
  struct epoll_event event = {.events = EPOLLIN};
  printf("%d", epoll_ctl(epoll_create1(0), EPOLL_CTL_ADD, eventfd(0, 0), &event) == 0);
  return 0;
}

static int one_process(int argc, char **argv) {
  (void)argc, (void)argv;
  pid_t child = fork();
  if (child == 0) _exit(0);
  if (child > 0) waitpid(child, 0, 0);
  printf("%d", child > 0);
  return 0;
}

/* Whether files can be locked, in every way that programs do. */
static int one_lock(int argc, char **argv) {
  (void)argc, (void)argv;
  char name[] = "/var/tmp/one-lock-XXXXXX";
  int fd = mkstemp(name);
  struct flock one = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 1};
  unlink(name);
  printf("%d", fd >= 0 && fcntl(fd, F_SETLK, &one) == 0 && flock(fd, LOCK_EX | LOCK_NB) == 0);
  return 0;
}

const struct program host[] = {
    {"host-victim", victim},       {"host-handle", show_handle},   {"host-uid", show_uid},       {"host-clock", show_clock},
    {"host-shared", shared},       {"host-sockets", show_sockets}, {"one-inotify", one_inotify}, {"one-signal", one_signal},
    {"one-pipe", one_pipe},        {"one-queue", one_queue},      {"one-key", one_key},         {"one-ipc", one_ipc},
    {"one-watch", one_watch},      {"one-process", one_process},  {"one-lock", one_lock},
    {0, 0},
};
