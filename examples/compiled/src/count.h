#ifndef COUNT_H
#define COUNT_H

#include <stddef.h>

/* How often each letter of the alphabet occurs. */
struct tally {
    size_t letters[26];
    size_t total;
};

void count_word(struct tally *tally, const char *word);

#endif
