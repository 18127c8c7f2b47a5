#include "count.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    struct tally tally = {{0}, 0};
    size_t different = 0;

    for (int i = 1; i < argc; i++)
        count_word(&tally, argv[i]);

    for (int i = 0; i < 26; i++) {
        if (tally.letters[i] == 0)
            continue;
        different++;
        printf("%c ", 'a' + i);
        for (size_t n = 0; n < tally.letters[i]; n++)
            putchar('#');
        putchar('\n');
    }
    printf("%d words, %zu letters, %zu different%s\n", argc - 1, tally.total,
           different, different == 26 ? ": a pangram" : "");
    return 0;
}
