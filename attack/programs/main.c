#include "attack.h"
#include <poll.h>

int hold(void) {
  fflush(stdout);
  if (write(1, "\ndone\n", 6) != 6) return 1;
  struct pollfd in = {.fd = 0, .events = POLLIN};
  char rest[256];
  /* The host closes stdin or kills; the time is for a host that died. */
  while (poll(&in, 1, 60000) > 0)
    if (read(0, rest, sizeof rest) <= 0) break;
  return 0;
}

int loot_fd(int fd) {
  char buffer[65536];
  ssize_t count;
  int some = 0;
  if (fd < 0) return 0;
  while (some < 4 && (count = read(fd, buffer, sizeof buffer)) > 0) {
    fwrite(buffer, 1, (size_t)count, stdout);
    some++;
  }
  close(fd);
  return some;
}

int loot_at(int folder, const char *path) { return loot_fd(openat(folder, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)); }

int loot(const char *path) { return loot_at(AT_FDCWD, path); }

int overwrite(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  ssize_t written = write(fd, text, strlen(text));
  close(fd);
  return written > 0;
}

int is_number(const char *text) {
  for (const char *at = text; *at; at++)
    if (*at < '0' || *at > '9') return 0;
  return *text != 0;
}

void linger(void) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  alarm(60);
  for (;;) pause();
}

int main(int argc, char **argv) {
  const struct program *all[] = {files, processes, kernel, network, counters, bombs, host, guest};
  signal(SIGPIPE, SIG_IGN);
  for (size_t set = 0; set < sizeof all / sizeof *all; set++)
    for (const struct program *one = all[set]; one->name; one++)
      if (argc > 1 && strcmp(argv[1], one->name) == 0) return one->run(argc - 2, argv + 2);
  fprintf(stderr, "no such attack\n");
  return 64;
}
