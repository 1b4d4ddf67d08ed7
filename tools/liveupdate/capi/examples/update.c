// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * One live update of a memfd, in C.
 *
 *   update preserve NAME   preserves a memfd and waits for the update
 *   update restore NAME    retrieves it, in the next kernel
 *   update check           calls all functions that need no kernel support
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "liveupdate.h"

#define TOKEN 42

static const char text[] = "carried over";

static int fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, liveupdate_error());
	return 1;
}

static int preserve(const char *name)
{
	int device, session, memfd, err;

	memfd = memfd_create(name, MFD_CLOEXEC);
	if (memfd < 0 || write(memfd, text, sizeof(text)) != sizeof(text)) {
		perror("memfd");
		return 1;
	}
	device = liveupdate_open(NULL);
	if (device < 0)
		return fail("open");
	session = liveupdate_create_session(device, name);
	close(device);
	if (session < 0)
		return fail("create");
	err = liveupdate_preserve(session, memfd, TOKEN);
	if (err)
		return fail("preserve");
	puts("preserved");
	fflush(stdout);
	/* The session must stay open until the next kernel is started. */
	for (;;)
		pause();
}

static int restore(const char *name)
{
	char found[sizeof(text)];
	int device, session, memfd;

	device = liveupdate_open(NULL);
	if (device < 0)
		return fail("open");
	session = liveupdate_retrieve_session(device, name);
	close(device);
	if (session < 0)
		return fail("retrieve the session");
	memfd = liveupdate_retrieve(session, TOKEN);
	if (memfd < 0)
		return fail("retrieve");
	if (pread(memfd, found, sizeof(found), 0) != sizeof(found) ||
	    memcmp(found, text, sizeof(text))) {
		fputs("the content has changed\n", stderr);
		return 1;
	}
	if (liveupdate_finish(session))
		return fail("finish");
	puts("restored");
	return 0;
}

/* Checks that need no support for sessions in the kernel. */
static int check(void)
{
	int memfd = memfd_create("file", MFD_CLOEXEC);
	char name[LIVEUPDATE_NAME_MAX + 1];

	if (liveupdate_open("/nonexistent") != -ENOENT ||
	    !strstr(liveupdate_error(), "/nonexistent"))
		return fail("open what is not there");
	if (liveupdate_session_kind(memfd) != LIVEUPDATE_NOT_A_SESSION ||
	    *liveupdate_error())
		return fail("what a memfd is");
	if (liveupdate_create_session(memfd, "") != -EINVAL)
		return fail("an empty name");
	if (liveupdate_create_session(memfd, NULL) != -EFAULT)
		return fail("no name");
	if (liveupdate_create_session(memfd, "name") != -ENOTTY)
		return fail("a memfd is no device");
	if (liveupdate_preserve(memfd, -1, 0) != -EBADF)
		return fail("no file");
	if (liveupdate_retrieve(-1, 0) != -EBADF)
		return fail("no session");
	if (liveupdate_finish(memfd) != -ENOTTY)
		return fail("finish a memfd");
	if (liveupdate_session_name(memfd, name, sizeof(name)) != -ENOTTY)
		return fail("the name of a memfd");
	/* The calls above must not have closed it. */
	if (write(memfd, text, sizeof(text)) != sizeof(text))
		return fail("the memfd is gone");
	puts("checked");
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "preserve"))
		return preserve(argv[2]);
	if (argc == 3 && !strcmp(argv[1], "restore"))
		return restore(argv[2]);
	if (argc == 2 && !strcmp(argv[1], "check"))
		return check();
	fprintf(stderr, "usage: %s preserve|restore NAME | check\n", argv[0]);
	return 2;
}
