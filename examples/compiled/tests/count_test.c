#include "../src/count.h"

#include <stdio.h>

int main(void)
{
    struct tally tally = {{0}, 0};

    count_word(&tally, "Abba!");
    if (tally.total != 4 || tally.letters[0] != 2 || tally.letters[1] != 2) {
        fprintf(stderr, "count_word counts wrong\n");
        return 1;
    }
    puts("ok");
    return 0;
}
