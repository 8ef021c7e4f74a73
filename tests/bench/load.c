/* Closed-loop load: many clients, each with one request under way.

     load SOCKET CLIENTS WARM_S SECONDS HELLO ACQUIRE RELEASE

   The frames are given in hex.  0x7f7f7f01 in them stands for the request's id and
   0x7f7f7f02 for the lease that the last reply named.  Each client says Hello and
   hears the answer; then it asks, hears, releases, hears, and so on.  After WARM_S
   the word "go" is printed, and SECONDS later the number of replies heard since. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

struct frame { unsigned char bytes[1024]; int size, id_at, lease_at; };
struct client { int fd, have; uint32_t id, holds; unsigned char in[4096]; };

static struct frame hello, acquire, release_;

static void die(const char *what) { perror(what); exit(1); }

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}

static int find(const unsigned char *in, int size, const char *what, int length) {
  const unsigned char *at = memmem(in, size, what, length);
  return at ? (int)(at - in) : -1;
}

static void read_frame(struct frame *frame, const char *hex) {
  for (; *hex; hex += 2, frame->size++) sscanf(hex, "%2hhx", &frame->bytes[frame->size]);
  frame->id_at = find(frame->bytes, frame->size, "\x7f\x7f\x7f\x01", 4);
  frame->lease_at = find(frame->bytes, frame->size, "\x7f\x7f\x7f\x02", 4);
}

static void put(unsigned char *at, uint32_t value) {
  at[0] = value >> 24, at[1] = value >> 16, at[2] = value >> 8, at[3] = value;
}

static uint32_t get(const unsigned char *at, int bytes) {
  uint32_t value = 0;
  while (bytes--) value = value << 8 | *at++;
  return value;
}

static void say(struct client *client, struct frame *frame) {
  if (frame->id_at >= 0) put(frame->bytes + frame->id_at, ++client->id);
  if (frame->lease_at >= 0) put(frame->bytes + frame->lease_at, client->holds);
  if (write(client->fd, frame->bytes, frame->size) != frame->size) die("write");
}

static uint32_t lease_in(const unsigned char *reply, int size) {
  int at = find(reply, size, "\xa5lease", 6) + 6;
  if (at < 6) return 0;
  unsigned char kind = reply[at];
  if (kind < 0x80) return kind;
  return get(reply + at + 1, kind == 0xcc ? 1 : kind == 0xcd ? 2 : 4);
}

/* Reads what is there; returns how many whole replies it was. */
static int hear(struct client *client) {
  int replies = 0, size;
  int got = read(client->fd, client->in + client->have, sizeof client->in - client->have);
  if (got <= 0) die("the server hung up");
  client->have += got;
  while (client->have >= 4 && client->have >= (size = 4 + get(client->in, 4))) {
    if (find(client->in, size, "refused", 7) >= 0 || find(client->in, size, "failed", 6) >= 0) {
      fprintf(stderr, "the server said no: %.*s\n", size - 4, client->in + 4);
      exit(1);
    }
    client->holds = client->holds ? 0 : lease_in(client->in, size);
    client->have -= size;
    memmove(client->in, client->in + size, client->have);
    replies++;
  }
  return replies;
}

int main(int argc, char **argv) {
  if (argc != 8) return 2;
  int count = atoi(argv[2]);
  double warm = atof(argv[3]), seconds = atof(argv[4]);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  strncpy(address.sun_path, argv[1], sizeof address.sun_path - 1);
  read_frame(&hello, argv[5]), read_frame(&acquire, argv[6]), read_frame(&release_, argv[7]);
  struct client *clients = calloc(count, sizeof *clients);
  struct epoll_event event = {.events = EPOLLIN}, events[512];
  int epoll = epoll_create1(0);
  for (struct client *c = clients; c < clients + count; c++) {
    c->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&address, sizeof address)) die("connect");
    say(c, &hello);
    while (!hear(c)) {}
    event.data.ptr = c;
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
  }
  for (struct client *c = clients; c < clients + count; c++) c->holds = 0, say(c, &acquire);
  double start = now() + warm;
  long replies = 0;
  int going = 0;
  for (;;) {
    int ready = epoll_wait(epoll, events, 512, 5000);
    if (ready <= 0) die("no reply for 5 s");
    for (int i = 0; i < ready; i++) {
      struct client *c = events[i].data.ptr;
      int heard = hear(c);
      replies += heard;
      if (heard) say(c, c->holds ? &release_ : &acquire);
    }
    double at = now();
    if (!going && at >= start) going = 1, replies = 0, start = at, puts("go"), fflush(stdout);
    if (going && at >= start + seconds) break;
  }
  printf("%ld\n", replies);
  return 0;
}
