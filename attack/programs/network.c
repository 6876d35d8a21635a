/* Sockets, to whoever listens on the host and of every kind there is. */
#include "attack.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>

static void finish(int fd) {
  struct pollfd out = {.fd = fd, .events = POLLOUT};
  poll(&out, 1, 200);
  if (write(fd, "x", 1) < 0) errno = 0;
}

/* PORT ADDRESS…: by TCP and by UDP. */
static int dial(int argc, char **argv) {
  for (int at = 1; at < argc; at++)
    for (int kind = SOCK_STREAM; kind <= SOCK_DGRAM; kind++) {
      int six = strchr(argv[at], ':') != 0, fd = socket(six ? AF_INET6 : AF_INET, kind | SOCK_NONBLOCK, 0);
      struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[0]))};
      struct sockaddr_in6 to6 = {.sin6_family = AF_INET6, .sin6_port = to.sin_port};
      inet_pton(AF_INET, argv[at], &to.sin_addr);
      inet_pton(AF_INET6, argv[at], &to6.sin6_addr);
      if (fd < 0) continue;
      connect(fd, six ? (void *)&to6 : (void *)&to, six ? sizeof to6 : sizeof to);
      finish(fd);
    }
  return hold();
}

/* NAME PATH: unix sockets of the host, abstract and by path. */
static int dial_unix(int argc, char **argv) {
  if (argc < 2) return 64;
  struct sockaddr_un to = {.sun_family = AF_UNIX};
  for (int kind = SOCK_STREAM; kind <= SOCK_DGRAM; kind++) {
    int fd = socket(AF_UNIX, kind | SOCK_NONBLOCK, 0);
    memset(to.sun_path, 0, sizeof to.sun_path);
    memcpy(to.sun_path + 1, argv[0], strlen(argv[0]));
    if (connect(fd, (void *)&to, (socklen_t)(sizeof to.sun_family + 1 + strlen(argv[0]))) == 0) finish(fd);
    fd = socket(AF_UNIX, kind | SOCK_NONBLOCK, 0);
    snprintf(to.sun_path, sizeof to.sun_path, "%s", argv[1]);
    if (connect(fd, (void *)&to, sizeof to) == 0) finish(fd);
  }
  return hold();
}

/* PROXYPORT PORT: through a proxy on loopback, by every spelling of the host's own address there is. */
static int dial_proxy(int argc, char **argv) {
  if (argc < 2) return 64;
  const char *spellings[] = {"127.0.0.1", "localhost", "localhost.", "LOCALHOST", "127.1", "127.0.0.2", "0", "0.0.0.0", "0x7f000001", "2130706433",
                             "0177.0.0.1", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[::127.0.0.1]", "ip6-localhost", "127.0.0.1%2f", "127.0.0.1 "};
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[0])), .sin_addr = {htonl(INADDR_LOOPBACK)}};
  struct timeval patience = {.tv_sec = 1};
  char request[512], answer[512];
  for (size_t at = 0; at < sizeof spellings / sizeof *spellings; at++)
    for (int plain = 0; plain < 2; plain++) {
      int fd = socket(AF_INET, SOCK_STREAM, 0);
      setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
      if (connect(fd, (void *)&to, sizeof to) == 0) {
        snprintf(request, sizeof request, plain ? "GET http://%s:%s/ HTTP/1.1\r\nHost: x\r\n\r\n" : "CONNECT %s:%s HTTP/1.1\r\nHost: x\r\n\r\n", spellings[at], argv[1]);
        if (write(fd, request, strlen(request)) > 0 && read(fd, answer, sizeof answer) > 0 && write(fd, "x", 1) < 0) perror("write");
      }
      close(fd);
    }
  return hold();
}

/* Every family and kind but TCP, UDP, unix and routing; what was had stays open for the host to see. */
static int kinds(int argc, char **argv) {
  (void)argc, (void)argv;
  const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_PACKET, SOCK_RDM};
  for (int family = 2; family < 46; family++)
    for (size_t type = 0; type < sizeof types / sizeof *types; type++) {
      int protocol = types[type] == SOCK_RAW && family != AF_NETLINK ? 1 : 0;
      socket(family, types[type] | SOCK_CLOEXEC, protocol);
    }
  for (int protocol = 1; protocol < 23; protocol++) socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
  socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(3));
  socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, 255);
  socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 132 /* SCTP */);
  socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 262 /* MPTCP */);
  /* The kernel looks at the low half of the arguments only. */
  syscall(SYS_socket, 0x1200000000ul | AF_PACKET, 0x3400000000ul | SOCK_RAW, 0x300);
  return hold();
}

const struct program network[] = {{"dial", dial}, {"dial-unix", dial_unix}, {"dial-proxy", dial_proxy}, {"sockets", kinds}, {0, 0}};
