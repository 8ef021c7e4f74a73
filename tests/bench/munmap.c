/* Gives memory back: munmap BYTES huge|small.  Prints the nanoseconds it took, and
   the bytes that were in huge pages. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static long huge_bytes(void) {
  char line[256];
  long kib = 0, found;
  FILE *file = fopen("/proc/self/smaps_rollup", "r");
  while (file && fgets(line, sizeof line, file))
    if (sscanf(line, "AnonHugePages: %ld", &found) == 1) kib = found;
  return kib * 1024;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  size_t size = strtoull(argv[1], 0, 10), align = 2 << 20;
  char *room = mmap(0, size + align, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return perror("mmap"), 1;
  char *memory = (char *)(((size_t)room + align - 1) / align * align);
  madvise(memory, size, strcmp(argv[2], "huge") ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
  if (madvise(memory, size, MADV_POPULATE_WRITE)) memset(memory, 1, size);
  long huge = huge_bytes();
  struct timespec before, after;
  clock_gettime(CLOCK_MONOTONIC, &before);
  if (munmap(memory, size)) return perror("munmap"), 1;
  clock_gettime(CLOCK_MONOTONIC, &after);
  printf("%ld %ld\n", (after.tv_sec - before.tv_sec) * 1000000000L +
         after.tv_nsec - before.tv_nsec, huge);
  return 0;
}
