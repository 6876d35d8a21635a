/* Too much of something. Each is bounded, because the weak set-up it is shown to hurt is the machine itself. */
#include "attack.h"
#include <sys/ipc.h>
#include <sys/msg.h>

/* MEGABYTES: memory that is written. */
static int memory(int argc, char **argv) {
  size_t size = (size_t)(argc > 0 ? atoi(argv[0]) : 160) << 20;
  if (fork() == 0) {
    char *place = mmap(0, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (size_t at = 0; place != MAP_FAILED && at < size; at += 4096) place[at] = 1;
    linger();
  }
  usleep(400000);
  return hold();
}

/* MEGABYTES PATH: shared memory. */
static int shared(int argc, char **argv) {
  size_t size = (size_t)(argc > 0 ? atoi(argv[0]) : 160) << 20;
  static char block[1 << 20];
  memset(block, 1, sizeof block);
  if (fork() == 0) {
    int fd = memfd_create("bomb", 0);
    for (size_t done = 0; done < size; done += sizeof block)
      if (write(fd, block, sizeof block) < 0) break;
    linger();
  }
  usleep(600000);
  return hold();
}

/* So many locks of bytes of a file. From the end, so that each finds its place at once; a byte between them, or they become one. */
static void lock_bytes(int fd, int command, int count) {
  for (long at = count; fd >= 0 && at > 0; at--) {
    struct flock one = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 2 * at, .l_len = 1};
    if (fcntl(fd, command, &one) < 0) return;
  }
}

static int own_file(int number) {
  char name[64];
  mkdir("/tmp", 0777);
  snprintf(name, sizeof name, "/tmp/locked-%d-%d", getpid(), number);
  int fd = open(name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  unlink(name);
  return fd;
}

/* FILES LOCKS: so many locks of bytes in each of so many files, which only the kernel's memory holds. */
static int locks(int argc, char **argv) {
  if (argc < 2) return 64;
  for (int file = 0; file < atoi(argv[0]); file++) lock_bytes(own_file(file), F_SETLK, atoi(argv[1]));
  return hold();
}

static struct {
  int fd, count;
} share;

static int lock_share(void *unused) {
  (void)unused;
  lock_bytes(share.fd, F_SETLK, share.count);
  return 0;
}

/* Goes on as the youngest of many processes, all with many open files: to look for one file among them takes long. */
static void hide_in_crowd(int processes) {
  for (int one = 0; one < processes; one++) {
    if (fork() != 0) continue;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int file = 0; file < 900; file++) dup(0);
    for (;;) pause();
  }
  pid_t youngest = fork();
  int status = 1;
  if (youngest == 0) return;
  waitpid(youngest, &status, 0);
  _exit(status != 0);
}

/* CHILDREN LOCKS CROWD: locks of memory files, by children that share the descriptors and are gone: the kernel's list tells who took them. */
static int orphan_locks(int argc, char **argv) {
  if (argc < 3) return 64;
  hide_in_crowd(atoi(argv[2]));
  sleep(1);
  static char stack[1 << 16];
  share.count = atoi(argv[1]);
  for (int child = 0; child < atoi(argv[0]); child++) {
    share.fd = memfd_create("orphan", MFD_CLOEXEC);
    pid_t pid = clone(lock_share, stack + sizeof stack, CLONE_FILES | CLONE_VM | SIGCHLD, 0);
    if (pid < 0) break;
    waitpid(pid, 0, 0);
  }
  return hold();
}

/* FILES LOCKS: locks of memory files that no process has open: they are on their way in a socket that nobody reads. */
static int lost_locks(int argc, char **argv) {
  if (argc < 2) return 64;
  enum { each = 200 };
  int ends[2], fds[each];
  char space[CMSG_SPACE(sizeof fds)], byte = 0;
  socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
  for (int file = 0; file < atoi(argv[0]); file += each) {
    for (int at = 0; at < each; at++) {
      fds[at] = memfd_create("lost", MFD_CLOEXEC);
      lock_bytes(fds[at], F_OFD_SETLK, atoi(argv[1]));
    }
    struct iovec text = {&byte, 1};
    struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof fds);
    memcpy(CMSG_DATA(head), fds, sizeof fds);
    sendmsg(ends[0], &message, MSG_DONTWAIT);
    for (int at = 0; at < each; at++) close(fds[at]);
  }
  return hold();
}

/* MEGABYTES: messages of System V that nobody takes. */
static int messages(int argc, char **argv) {
  static struct {
    long kind;
    char text[8000];
  } message = {.kind = 1};
  for (long left = (argc > 0 ? atol(argv[0]) : 160) << 20; left > 0;) {
    int queue = msgget(IPC_PRIVATE, 0600);
    if (queue < 0) break;
    while (left > 0 && msgsnd(queue, &message, sizeof message.text, IPC_NOWAIT) == 0) left -= sizeof message.text;
  }
  return hold();
}

/* COUNT: processes. */
static int forks(int argc, char **argv) {
  for (int at = 0, most = argc > 0 ? atoi(argv[0]) : 200; at < most; at++) {
    pid_t child = fork();
    if (child < 0) break;
    if (child == 0) linger();
  }
  return hold();
}

/* COUNT: processes that never rest. */
static int busy(int argc, char **argv) {
  for (int at = 0, most = argc > 0 ? atoi(argv[0]) : 4; at < most; at++)
    if (fork() == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      alarm(30);
      /* Schedulers share out by session: each its own, for the most there is. */
      setsid();
      for (volatile unsigned long turn = 0;; turn++) {}
    }
  return hold();
}

/* MEGABYTES FOLDER: a file that grows. */
static int disk(int argc, char **argv) {
  if (argc < 2) return 64;
  static char block[1 << 20];
  char path[512];
  for (size_t at = 0; at < sizeof block; at += 8) *(uint64_t *)(block + at) = at * 0x9e3779b97f4a7c15ul;
  snprintf(path, sizeof path, "%s/fill", argv[1]);
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  for (int done = 0; done < atoi(argv[0]); done++) {
    memcpy(block, &done, sizeof done);
    if (write(fd, block, sizeof block) < 0) break;
  }
  fsync(fd);
  return hold();
}

/* COUNT FOLDER: files of nothing but a long name. */
static int inodes(int argc, char **argv) {
  if (argc < 2) return 64;
  char path[512], name[200];
  memset(name, 'n', sizeof name - 1);
  name[sizeof name - 1] = 0;
  snprintf(path, sizeof path, "%s/many", argv[1]);
  mkdir(path, 0700);
  for (int at = 0; at < atoi(argv[0]); at++) {
    snprintf(path, sizeof path, "%s/many/%d%s", argv[1], at, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd < 0) break;
    close(fd);
  }
  return hold();
}

/* MEGABYTES: output nobody asked for. */
static int output(int argc, char **argv) {
  static char block[1 << 16];
  memset(block, 'x', sizeof block - 1);
  block[sizeof block - 1] = '\n';
  for (long left = (argc > 0 ? atol(argv[0]) : 256) << 4; left > 0; left--)
    if (write(1, block, sizeof block) < 0) break;
  return hold();
}

const struct program bombs[] = {
    {"bomb-memory", memory}, {"bomb-shared", shared}, {"bomb-locks", locks}, {"bomb-orphan-locks", orphan_locks}, {"bomb-lost-locks", lost_locks},
    {"bomb-messages", messages}, {"bomb-forks", forks}, {"bomb-busy", busy},
    {"bomb-disk", disk},     {"bomb-inodes", inodes}, {"bomb-output", output}, {0, 0},
};
