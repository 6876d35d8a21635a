/* A guest that somebody has taken over: it listens where the real one does, and says to the host what no guest would. */
#include "attack.h"
#include <poll.h>

static void put(int to, unsigned char type, uint32_t channel, const void *payload, uint32_t size, uint32_t claimed) {
  unsigned char head[9];
  uint32_t length = claimed ? claimed : 5 + size;
  memcpy(head, &length, 4);
  head[4] = type;
  memcpy(head + 5, &channel, 4);
  if (write(to, head, 9) == 9 && size > 0 && write(to, payload, size) < 0) errno = 0;
}

static void hello(int to) {
  unsigned char payload[64] = {6, 0, 0, 0, 'D', 'E', 'L', 'T', 'A', '1', 1, 0, 0, 0, 16, 0, 0, 0};
  memset(payload + 18, 7, 16);
  put(to, 1, 0, payload, 18 + 16 + 8 + 4, 0);
}

static void talk(int to, int way) {
  static unsigned char block[65536];
  for (size_t at = 0; at < sizeof block; at++) block[at] = (unsigned char)(at * 2654435761u >> 13);
  if (way != 1) hello(to);
  switch (way) {
    case 0: put(to, 4, 1, block, 1000, 0xfffffff0u); break;
    case 1: for (int left = 1000; left > 0 && write(to, block, sizeof block) > 0;) left--; break;
    case 2: for (int left = 2000; left > 0; left--) put(to, 4, 1, block, 60000, 0); break;
    case 3: for (uint32_t left = 200000; left > 0; left--) put(to, 9, 0, block, 8, 0); break;
    case 4: {
      /* EGRESS, from a channel of its own each: str host, u16 port, u8 via. */
      unsigned char open[] = {21, 9, 0, 0, 0, 'l', 'o', 'c', 'a', 'l', 'h', 'o', 's', 't', 80, 0, 1};
      for (uint32_t channel = 2; channel < 200000; channel += 2) put(to, 2, channel, open, sizeof open, 0);
      break;
    }
    default: for (uint32_t left = 200000; left > 0; left--) put(to, 7, left * 2 + 1, block, 200, 0);
  }
}

static int serve(int argc, char **argv) {
  (void)argc, (void)argv;
  for (int way = 0, to; (to = accept(3, 0, 0)) >= 0; way = (way + 1) % 6) {
    if (fork() == 0) {
      alarm(20);
      talk(to, way);
      pause();
    }
    close(to);
  }
  return 0;
}

const struct program guest[] = {{"serve", serve}, {0, 0}};
