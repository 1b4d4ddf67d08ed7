// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * A client of luod in C: a memfd that survives live updates.
 *
 *   luod-client [SOCKET [NAME]]
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "liveupdate.h"

#define TOKEN 1
/* More than one page, and not a multiple of the page size. */
#define SIZE 1000003
/* The time for a luod that is restarted. */
#define PATIENCE_MS 60000

static _Noreturn void fail(const char *what, const char *why)
{
	fprintf(stderr, "%s: %s\n", what, why);
	exit(1);
}

static unsigned char content(size_t at)
{
	return at * 2654435761u >> 24;
}

static int new_memfd(void)
{
	unsigned char *bytes = malloc(SIZE);
	int memfd = memfd_create("luod-client", MFD_CLOEXEC);
	size_t at;

	if (!bytes || memfd < 0)
		fail("memfd", strerror(errno));
	for (at = 0; at < SIZE; at++)
		bytes[at] = content(at);
	if (pwrite(memfd, bytes, SIZE, 0) != SIZE)
		fail("memfd", strerror(errno));
	free(bytes);
	return memfd;
}

static void check_memfd(int memfd)
{
	unsigned char *bytes = malloc(SIZE + 1);
	size_t at;

	if (!bytes || pread(memfd, bytes, SIZE + 1, 0) != SIZE)
		fail("memfd", "the size has changed");
	for (at = 0; at < SIZE; at++)
		if (bytes[at] != content(at))
			fail("memfd", "the content has changed");
	free(bytes);
}

/* This program's part of a live update; @data is its memfd. */

static int preserve(void *data, const char *id, int session)
{
	const int *memfd = data;

	(void)id;
	return liveupdate_preserve(session, *memfd, TOKEN);
}

static void cancelled(void *data, const char *id, const char *reason)
{
	/* The memfd is not preserved any more, and may be changed. */
	(void)data;
	printf("%s: %s\n", id, reason);
}

static int restore(void *data, const char *id, int session)
{
	int *memfd = data;
	int fd = liveupdate_retrieve(session, TOKEN);

	(void)id;
	if (fd < 0)
		return fd;
	check_memfd(fd);
	if (*memfd >= 0)
		close(*memfd);
	*memfd = fd;
	puts("verified");
	return 0;
}

int main(int argc, char **argv)
{
	const char *path = argc > 1 ? argv[1] : NULL;
	const char *id = argc > 2 ? argv[2] : "luod-client";
	int memfd = -1;
	const struct liveupdate_participant participant = {
		.size = sizeof(participant),
		.data = &memfd,
		.preserve = preserve,
		.cancelled = cancelled,
		.restore = restore,
	};
	struct liveupdate_member *member;

	if (liveupdate_join(path, "luod-client", &id, 1, &participant,
			    PATIENCE_MS, &member))
		fail("luod", liveupdate_error());
	/* There was no session: this is the first start. */
	if (memfd < 0)
		memfd = new_memfd();
	while (!liveupdate_step(member, -1))
		fflush(stdout);
	fail("luod", liveupdate_error());
}
