/* Programs of the battery: each does its worst, says "done" and waits, so that the host can look at what came of it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct program {
  const char *name;
  int (*run)(int argc, char **argv);
};

extern const struct program files[], processes[], kernel[], network[], counters[], bombs[], host[], guest[];

/* Says "done" and keeps all that is held until stdin ends, 60 s at most. */
int hold(void);
/* Puts what a file holds on stdout: the loot, in which the host looks for its secret. */
int loot(const char *path);
int loot_at(int folder, const char *path);
int loot_fd(int fd);
int overwrite(const char *path, const char *text);
int is_number(const char *text);
/* A copy of this program that does nothing but live, in whatever the caller has just made. */
void linger(void);
