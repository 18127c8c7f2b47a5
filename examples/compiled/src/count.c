#include "count.h"

#include <ctype.h>

void count_word(struct tally *tally, const char *word)
{
    for (; *word != '\0'; word++) {
        int letter = tolower((unsigned char)*word);
        if (letter >= 'a' && letter <= 'z') {
            tally->letters[letter - 'a']++;
            tally->total++;
        }
    }
}
