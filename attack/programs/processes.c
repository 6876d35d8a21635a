/* Other processes, and rights over them. */
#include "attack.h"
#include <dirent.h>
#include <sys/ptrace.h>
#include <sys/timex.h>

/* PID: ends a process of the host. */
static int kill_process(int argc, char **argv) {
  if (argc < 1) return 64;
  pid_t pid = atoi(argv[0]);
  siginfo_t info = {.si_code = SI_QUEUE};
  kill(pid, SIGKILL);
  syscall(SYS_tgkill, pid, pid, SIGKILL);
  info.si_signo = SIGKILL;
  syscall(SYS_rt_sigqueueinfo, pid, SIGKILL, &info);
  int handle = (int)syscall(SYS_pidfd_open, pid, 0);
  if (handle >= 0) syscall(SYS_pidfd_send_signal, handle, SIGKILL, 0, 0);
  return hold();
}

/* PID ADDRESS(hex) TEXT: reads and writes the memory of a process of the host. */
static int trace_process(int argc, char **argv) {
  if (argc < 3) return 64;
  pid_t pid = atoi(argv[0]);
  void *address = (void *)strtoul(argv[1], 0, 16);
  char taken[64] = {0}, path[64];
  struct iovec mine = {taken, sizeof taken - 1}, theirs = {address, sizeof taken - 1};
  if (process_vm_readv(pid, &mine, 1, &theirs, 1, 0) > 0) fwrite(taken, 1, sizeof taken - 1, stdout);
  mine.iov_base = argv[2];
  mine.iov_len = theirs.iov_len = strlen(argv[2]);
  process_vm_writev(pid, &mine, 1, &theirs, 1, 0);
  snprintf(path, sizeof path, "/proc/%d/mem", pid);
  int fd = open(path, O_RDWR);
  if (fd >= 0) {
    if (pread(fd, taken, sizeof taken - 1, (off_t)(uintptr_t)address) > 0) fwrite(taken, 1, sizeof taken - 1, stdout);
    if (pwrite(fd, argv[2], strlen(argv[2]), (off_t)(uintptr_t)address) < 0) perror("mem");
  }
  if (ptrace(PTRACE_ATTACH, pid, 0, 0) == 0) {
    waitpid(pid, 0, __WALL);
    long word = ptrace(PTRACE_PEEKDATA, pid, address, 0);
    fwrite(&word, 1, sizeof word, stdout);
    ptrace(PTRACE_DETACH, pid, 0, 0);
  }
  return hold();
}

/* What the processes in sight are called, what they hold in their environment and which files they have open. */
static int list_processes(int argc, char **argv) {
  (void)argc, (void)argv;
  DIR *proc = opendir("/proc");
  const char *names[] = {"cmdline", "environ", "comm", "maps"};
  char path[512];
  for (struct dirent *entry; proc && (entry = readdir(proc));) {
    if (!is_number(entry->d_name)) continue;
    for (size_t name = 0; name < sizeof names / sizeof *names; name++) {
      snprintf(path, sizeof path, "/proc/%s/%s", entry->d_name, names[name]);
      loot(path);
    }
  }
  return hold();
}

/* Every way to another uid: a set-uid file, all three ids, and processes that stay as what they became. */
static int become(int argc, char **argv) {
  (void)argc, (void)argv;
  const uid_t wanted[] = {0, 1, 1000, 65534, 65535, 65536, 100000, 0x7fffffff};
  for (size_t at = 0; at < sizeof wanted / sizeof *wanted; at++) {
    if (fork() == 0) {
      if (setresgid(wanted[at], wanted[at], wanted[at]) == 0 || setresuid(wanted[at], wanted[at], wanted[at]) == 0)
        setresuid(wanted[at], wanted[at], wanted[at]);
      linger();
    }
  }
  usleep(50000);
  return hold();
}

/* MICROSECONDS: the machine's clock state. */
static int set_clock(int argc, char **argv) {
  if (argc < 1) return 64;
  struct timex change = {.modes = ADJ_ESTERROR, .esterror = atol(argv[0])};
  if (adjtimex(&change) < 0) perror("adjtimex");
  return hold();
}

/* NAME: the machine's NIS domain, which stands for its names. */
static int set_domain(int argc, char **argv) {
  if (argc < 1) return 64;
  if (setdomainname(argv[0], strlen(argv[0])) < 0) perror("setdomainname");
  return hold();
}

/* The kernel's log: the call, the device, and a device node of its own. */
static int kernel_log(int argc, char **argv) {
  (void)argc, (void)argv;
  static char log[1 << 20];
  long count = syscall(SYS_syslog, 3, log, sizeof log);
  if (count > 0) fwrite(log, 1, (size_t)count, stdout);
  mknod("/tmp/kmsg", S_IFCHR | 0600, 1 << 8 | 11);
  for (int at = 0; at < 3; at++) {
    int fd = open(at == 0 ? "/dev/kmsg" : at == 1 ? "/proc/kmsg" : "/tmp/kmsg", O_RDONLY | O_NONBLOCK);
    for (int line = 0; fd >= 0 && line < 20000; line++) {
      ssize_t length = read(fd, log, sizeof log);
      if (length <= 0) break;
      fwrite(log, 1, (size_t)length, stdout);
    }
  }
  return hold();
}

/* Whether Ctrl-Alt-Del restarts the machine: a setting only the call `reboot` has. */
static int reboot_setting(int argc, char **argv) {
  if (argc < 1) return 64;
  syscall(SYS_reboot, 0xfee1dead, 672274793, atoi(argv[0]) ? 0x89abcdef : 0, 0);
  return hold();
}

const struct program processes[] = {
    {"process-kill", kill_process}, {"process-trace", trace_process}, {"process-list", list_processes}, {"uid", become},
    {"clock", set_clock},           {"domain", set_domain},           {"kernel-log", kernel_log},       {"reboot", reboot_setting},
    {0, 0},
};
