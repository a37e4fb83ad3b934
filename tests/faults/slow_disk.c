/* Makes a disk slow: each sync of a file waits for as many milliseconds as the file named by SLOW_DISK says, and
   leaves one byte in SLOW_DISK_DONE when it has. Loaded before the C library of a member. */

#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static void wait_as_told(void) {
    char text[16] = {0};
    int told = open(getenv("SLOW_DISK"), O_RDONLY | O_CLOEXEC);
    if (told < 0)
        return;
    long millis = read(told, text, sizeof text - 1) > 0 ? atol(text) : 0;
    close(told);
    if (millis <= 0)
        return;
    nanosleep(&(struct timespec){millis / 1000, millis % 1000 * 1000000}, NULL);
    int done = open(getenv("SLOW_DISK_DONE"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (done < 0 || write(done, ".", 1) != 1)
        abort();
    close(done);
}

int fsync(int file) {
    wait_as_told();
    return syscall(SYS_fsync, file);
}

int fdatasync(int file) {
    wait_as_told();
    return syscall(SYS_fdatasync, file);
}
