/* The kernel's own surface: what of it can be had at all. What was had is held, and the host looks at it. */
#include "attack.h"
#include <linux/bpf.h>
#include <linux/fanotify.h>
#include <linux/io_uring.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <termios.h>

static void say(const char *what, long result) { fprintf(stderr, "%s: %s\n", what, result < 0 ? strerror(errno) : "had"); }

static int bpf_map(int argc, char **argv) {
  (void)argc, (void)argv;
  union bpf_attr wanted = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
  say("bpf", syscall(SYS_bpf, BPF_MAP_CREATE, &wanted, sizeof wanted));
  return hold();
}

static int uring(int argc, char **argv) {
  (void)argc, (void)argv;
  struct io_uring_params wanted = {0};
  say("io_uring_setup", syscall(SYS_io_uring_setup, 4, &wanted));
  return hold();
}

static int userfault(int argc, char **argv) {
  (void)argc, (void)argv;
  say("userfaultfd", syscall(SYS_userfaultfd, O_CLOEXEC));
  say("userfaultfd, its own faults", syscall(SYS_userfaultfd, O_CLOEXEC | 1));
  return hold();
}

static int perf(int argc, char **argv) {
  (void)argc, (void)argv;
  struct perf_event_attr wanted = {.type = PERF_TYPE_SOFTWARE, .size = sizeof wanted, .config = PERF_COUNT_SW_TASK_CLOCK, .exclude_kernel = 1};
  say("perf_event_open", syscall(SYS_perf_event_open, &wanted, 0, -1, -1, 0));
  return hold();
}

static int fanotify(int argc, char **argv) {
  (void)argc, (void)argv;
  say("fanotify_init", syscall(SYS_fanotify_init, FAN_CLASS_NOTIF, O_RDONLY));
  return hold();
}

static int mount_api(int argc, char **argv) {
  (void)argc, (void)argv;
  say("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
  return hold();
}

/* POINT: a file system of one's own, by the old call and by a clone of one that is there. */
static int mounting(int argc, char **argv) {
  if (argc < 1) return 64;
  mkdir("/tmp", 0777);
  mkdir(argv[0], 0755);
  say("mount tmpfs", mount("none", argv[0], "tmpfs", 0, 0));
  say("bind", mount("/", argv[0], 0, MS_BIND, 0));
  int tree = (int)syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */);
  say("open_tree", tree);
  if (tree >= 0) say("move_mount", syscall(SYS_move_mount, tree, "", AT_FDCWD, argv[0], 4));
  return hold();
}

/* What hides and what protects, taken off. */
static int unmask(int argc, char **argv) {
  for (int at = 0; at < argc; at++) {
    say("umount", umount2(argv[at], MNT_DETACH));
    say("remount", mount(0, argv[at], 0, MS_REMOUNT | MS_BIND, 0));
  }
  return hold();
}

/* FLAG(hex): a namespace, by each of the calls that make one. */
static int namespace(int argc, char **argv) {
  if (argc < 1) return 64;
  unsigned long flag = strtoul(argv[0], 0, 16);
  if (flag != 0x80 && syscall(SYS_clone, flag | SIGCHLD, 0, 0, 0, 0) == 0) linger();
  struct clone_args all = {.flags = flag, .exit_signal = SIGCHLD};
  if (syscall(SYS_clone3, &all, sizeof all) == 0) linger();
  if (fork() == 0) {
    say("unshare", syscall(SYS_unshare, flag));
    /* A pid or time namespace begins with the next child. */
    if (fork() == 0) linger();
    linger();
  }
  usleep(30000);
  return hold();
}

static int keys(int argc, char **argv) {
  int count = argc > 0 ? atoi(argv[0]) : 20;
  char name[32];
  syscall(SYS_keyctl, 1 /* JOIN_SESSION_KEYRING */, 0);
  for (int at = 0; at < count; at++) {
    snprintf(name, sizeof name, "delta-%d", at);
    if (syscall(SYS_add_key, "user", name, "x", 1, -2 /* KEY_SPEC_PROCESS_KEYRING */) < 0) break;
  }
  return hold();
}

/* Makes a folder by the 32-bit call of the same machine: number 39 there is mkdir, here it is getpid. */
static int abi_32(int argc, char **argv) {
  if (argc < 1) return 64;
#ifdef __x86_64__
  char *low = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
  long result;
  snprintf(low, 4096, "%s", argv[0]);
  signal(SIGSYS, SIG_IGN);
  __asm__ volatile("int $0x80" : "=a"(result) : "a"(39L), "b"(low), "c"(0755L) : "memory", "r8", "r9", "r10", "r11");
#endif
  return hold();
}

/* The same by the x32 numbers. */
static int abi_x32(int argc, char **argv) {
  if (argc < 1) return 64;
  say("x32", syscall(0x40000000 | 83, argv[0], 0755));
  return hold();
}

/* PATH: puts a line into a terminal's input, and into PATH what comes out of it. */
static int inject(int argc, char **argv) {
  if (argc < 1) return 64;
  setsid();
  int master = open("/dev/ptmx", O_RDWR | O_NOCTTY), zero = 0, number = -1;
  ioctl(master, TIOCSPTLCK, &zero);
  ioctl(master, TIOCGPTN, &number);
  char name[32], typed[8] = {0};
  snprintf(name, sizeof name, "/dev/pts/%d", number);
  int tty = open(name, O_RDWR);
  ioctl(tty, TIOCSCTTY, 0);
  for (const char *at = "hi\n"; *at; at++) say("TIOCSTI", ioctl(tty, TIOCSTI, at));
  /* The high half of the request is not looked at by the kernel. */
  for (const char *at = "hi\n"; *at; at++) syscall(SYS_ioctl, tty, 0x5a5a5a5a00000000ul | TIOCSTI, at);
  fcntl(tty, F_SETFL, O_NONBLOCK);
  if (read(tty, typed, sizeof typed - 1) > 0) {
    int fd = open(argv[0], O_WRONLY | O_CREAT, 0644);
    if (write(fd, typed, strlen(typed)) < 0) perror(argv[0]);
  }
  return hold();
}

/* Linux AIO: events of the whole machine. */
static int aio(int argc, char **argv) {
  (void)argc, (void)argv;
  unsigned long context = 0;
  say("io_setup", syscall(SYS_io_setup, 4096, &context));
  return hold();
}

/* CONTROLLER NAME TEXT…: a hierarchy of control groups mounted here, and what limits this box changed in all that are seen. */
static int cgroups(int argc, char **argv) {
  char path[512];
  mkdir("/tmp", 0777);
  mkdir("/tmp/cg", 0755);
  const char *roots[] = {"/tmp/cg", "/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"};
  say("cgroup2", mount("none", "/tmp/cg", "cgroup2", 0, 0));
  say("cgroup pids", mount("none", "/tmp/cg", "cgroup", 0, "pids"));
  for (size_t root = 0; root < sizeof roots / sizeof *roots; root++)
    for (int at = 0; at + 1 < argc; at += 2) {
      snprintf(path, sizeof path, "%s/%s", roots[root], argv[at]);
      overwrite(path, argv[at + 1]);
    }
  return hold();
}

/* A kernel to start in place of this one: by its segments, by a file, and for a crash. */
static int other_kernel(int argc, char **argv) {
  (void)argc, (void)argv;
  static char page[4096];
  struct {
    void *from;
    size_t length;
    unsigned long to;
    size_t room;
  } segment = {page, sizeof page, 0x10000000, sizeof page};
  say("kexec_load", syscall(SYS_kexec_load, 0x10000000, 1, &segment, 62ul << 16));
  say("kexec_load for a crash", syscall(SYS_kexec_load, 0x10000000, 1, &segment, 62ul << 16 | 1));
  say("kexec_file_load", syscall(SYS_kexec_file_load, open("/proc/self/exe", O_RDONLY), -1, 1, "", 4));
  return hold();
}

/* FILE…: modules of the kernel, by both calls. */
static int modules(int argc, char **argv) {
  for (int at = 0; at < argc; at++) {
    int fd = open(argv[at], O_RDONLY);
    struct stat seen;
    if (fd < 0 || fstat(fd, &seen) < 0) continue;
    void *bytes = mmap(0, (size_t)seen.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    say("finit_module", syscall(SYS_finit_module, fd, "", 0));
    if (bytes != MAP_FAILED) say("init_module", syscall(SYS_init_module, bytes, (size_t)seen.st_size, ""));
  }
  return hold();
}

/* KEY: shared memory of the host's. */
static int shared_memory(int argc, char **argv) {
  if (argc < 1) return 64;
  long id = syscall(SYS_shmget, atoi(argv[0]), 0, 0);
  char *place = id < 0 ? (char *)-1 : (char *)syscall(SYS_shmat, id, 0, 0);
  if (place != (char *)-1) printf("%s\n", place);
  return hold();
}

const struct program kernel[] = {
    {"bpf", bpf_map},       {"io-uring", uring},       {"userfaultfd", userfault}, {"perf", perf},   {"fanotify", fanotify},
    {"mount-api", mount_api}, {"mount", mounting},     {"unmask", unmask},         {"namespace", namespace}, {"keys", keys},
    {"abi-32", abi_32},     {"abi-x32", abi_x32},      {"terminal-injection", inject}, {"aio", aio}, {"cgroup", cgroups},
    {"shared-memory", shared_memory}, {"kexec", other_kernel}, {"modules", modules}, {0, 0},
};
