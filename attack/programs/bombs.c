/* Too much of something. Each is bounded, because the weak set-up it is shown to hurt is the machine itself. */
#include "attack.h"

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
    {"bomb-memory", memory}, {"bomb-shared", shared}, {"bomb-forks", forks}, {"bomb-busy", busy},
    {"bomb-disk", disk},     {"bomb-inodes", inodes}, {"bomb-output", output}, {0, 0},
};
