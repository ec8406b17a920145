/* SPDX-License-Identifier: MIT */
/* Start one program and say what it used.
 *
 *   launch DESCRIPTOR LIBRARY COMMAND [ARGUMENT...]
 *
 * LIBRARY is preloaded into the command alone; "" is none. What is said goes to the DESCRIPTOR: the
 * command's process id at once, and one line of JSON when it has ended.
 *
 * The kernel starts a program's peak of resident memory with that of the process that became it, so
 * whoever starts it must be small. This one is, when linked statically; a Python interpreter is
 * not.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_NOT_STARTED = 127 };

static int report_descriptor;

static double seconds_of(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec / 1e6;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* In the child: become the command. If this launcher is killed, so is the command. */
static _Noreturn void become(const char *library, char **command)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    close(report_descriptor);
    if (library[0] != '\0')
        setenv("LD_PRELOAD", library, 1);
    execvp(command[0], command);
    dprintf(STDERR_FILENO, "launch: %s: %s\n", command[0], strerror(errno));
    _exit(EXIT_NOT_STARTED);
}

static void report(int status, double wall_seconds, const struct rusage *used)
{
    dprintf(report_descriptor,
            "{\"exit_status\": %d, \"signal\": %d, \"wall_seconds\": %.6f, "
            "\"user_seconds\": %.6f, \"system_seconds\": %.6f, \"peak_kib\": %ld, "
            "\"minor_faults\": %ld, \"major_faults\": %ld, "
            "\"voluntary_switches\": %ld, \"involuntary_switches\": %ld}\n",
            WIFEXITED(status) ? WEXITSTATUS(status) : -1,
            WIFSIGNALED(status) ? WTERMSIG(status) : 0, wall_seconds, seconds_of(used->ru_utime),
            seconds_of(used->ru_stime), used->ru_maxrss, used->ru_minflt, used->ru_majflt,
            used->ru_nvcsw, used->ru_nivcsw);
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: launch DESCRIPTOR LIBRARY COMMAND [ARGUMENT...]\n");
        return 2;
    }
    report_descriptor = atoi(argv[1]);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    double start = now();
    pid_t pid = fork();
    if (pid < 0) {
        perror("launch: fork");
        return 1;
    }
    if (pid == 0)
        become(argv[2], argv + 3);
    dprintf(report_descriptor, "%ld\n", (long)pid);

    int status;
    struct rusage used;
    while (wait4(pid, &status, 0, &used) < 0) {
        if (errno != EINTR) {
            perror("launch: wait4");
            return 1;
        }
    }
    report(status, now() - start, &used);
    return 0;
}
