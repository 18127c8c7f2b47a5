#include <stdio.h>

int main(void)
{
#if defined(__aarch64__)
    const char *compiled_for = "aarch64";
#elif defined(__x86_64__)
    const char *compiled_for = "x86_64";
#else
#error "add this processor to `platforms` in kiln.toml, and here"
#endif
    printf("compiled for %s\n", compiled_for);
    return 0;
}
