/* The next one to run: prints when it did, in nanoseconds of CLOCK_MONOTONIC. */
#include <stdio.h>
#include <time.h>

int main(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  printf("%ld\n", t.tv_sec * 1000000000L + t.tv_nsec);
  return 0;
}
