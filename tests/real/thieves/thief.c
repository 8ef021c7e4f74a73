/* Takes memory that was meant for somebody else, and says how much it has.
 *
 *     thief SLOT LIMIT USAGE polite FLOOR
 *     thief SLOT LIMIT USAGE greedy
 *     thief SLOT LIMIT USAGE steady BYTES_A_SECOND
 *     thief SLOT LIMIT USAGE churn FILE
 *
 * SLOT   descriptor of a file whose first 8 bytes are the bytes it has
 * LIMIT  bytes of the machine
 * USAGE  file with the bytes that are used of it
 *
 * polite  takes whenever it sees at least FLOOR bytes free, until there are less
 * greedy  takes without looking: it sleeps in a page fault and gets each page freed
 * steady  wants so much more each second, whatever is free
 * churn   writes a file as big as the machine once, then reads it again and again,
 *         writing each eighth block anew: page cache, not memory of its own
 *
 * A word on stdin lets it begin.  greedy and steady then fill the machine but for
 * MARGIN, and become what they are at a second word.
 *
 * Everything it needs is mapped before it begins, so that it is never in want of
 * anything but the pages it takes.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L
#define STEP (1L << 20)
/* what a client needs to ask, with room for the batches in which pages are counted */
#define MARGIN (8L << 20)

static volatile uint64_t *has;
static char *memory;
static long limit;
static int usage;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void pause_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

static long seen_free(void)
{
	char text[32] = "";

	if (pread(usage, text, sizeof text - 1, 0) <= 0)
		die("usage");
	return limit - atol(text);
}

static void take(long bytes)
{
	for (; bytes > 0 && (long)*has < 2 * limit; bytes -= PAGE) {
		memory[*has] = 1;
		*has += PAGE;
	}
}

static void polite(long floor)
{
	for (;;)
		if (seen_free() >= floor)
			take(STEP);
		else
			pause_ms(1);
}

/* Waits for a word; without one there is nothing to do. */
static void wait_for_word(void)
{
	int c;

	while ((c = getchar()) != '\n')
		if (c == EOF)
			exit(0);
}

static void fill(void)
{
	while (seen_free() > MARGIN)
		take(STEP);
	wait_for_word();
}

static void greedy(void)
{
	fill();
	for (;;)
		take(STEP);
}

static void steady(long rate)
{
	fill();
	for (;;) {
		take(STEP);
		pause_ms(1000 * STEP / rate);
	}
}

static void churn(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	long round, at;

	if (fd < 0)
		die(path);
	for (round = 0;; round++)
		for (at = 0; at < limit; at += STEP) {
			int writes = !round || at / STEP % 8 == round % 8;
			long n = writes ? pwrite(fd, memory, STEP, at)
					: pread(fd, memory, STEP, at);
			if (n != STEP)
				die(path);
		}
}

int main(int argc, char **argv)
{
	if (argc < 5)
		return 2;
	limit = atol(argv[2]);
	usage = open(argv[3], O_RDONLY);
	has = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, atoi(argv[1]), 0);
	memory = mmap(NULL, 2 * limit, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (usage < 0 || has == MAP_FAILED || memory == MAP_FAILED)
		die("thief");
	madvise(memory, 2 * limit, MADV_NOHUGEPAGE);
	wait_for_word();
	if (!strcmp(argv[4], "greedy"))
		greedy();
	if (argc < 6)
		return 2;
	if (!strcmp(argv[4], "polite"))
		polite(atol(argv[5]));
	if (!strcmp(argv[4], "steady"))
		steady(atol(argv[5]));
	if (!strcmp(argv[4], "churn"))
		churn(argv[5]);
	return 2;
}
