#include "base/glob.h"

static uint8_t fold(uint8_t c, bool ignore_case) {
    return ignore_case && c >= 'A' && c <= 'Z' ? (uint8_t)(c + ('a' - 'A')) : c;
}

/* The character at *at, after a backslash if there is one; moves behind it. */
static uint8_t take_literal(struct slice pattern, size_t *at, bool ignore_case) {
    if (pattern.data[*at] == '\\' && *at + 1 < pattern.size) {
        ++*at;
    }
    return fold(pattern.data[(*at)++], ignore_case);
}

/* Matches `c` against the class whose '[' is at *at; moves behind its ']' (or the pattern's end,
 * for a class that is not closed). */
static bool match_class(struct slice pattern, size_t *at, uint8_t c, bool ignore_case) {
    ++*at;
    bool negated = *at < pattern.size && pattern.data[*at] == '^';
    if (negated) {
        ++*at;
    }
    bool found = false;
    while (*at < pattern.size && pattern.data[*at] != ']') {
        uint8_t low = take_literal(pattern, at, ignore_case);
        uint8_t high = low;
        if (*at + 1 < pattern.size && pattern.data[*at] == '-' && pattern.data[*at + 1] != ']') {
            ++*at;
            high = take_literal(pattern, at, ignore_case);
        }
        if (low > high) {
            uint8_t swap = low;
            low = high;
            high = swap;
        }
        found = found || (c >= low && c <= high);
    }
    if (*at < pattern.size) {
        ++*at;
    }
    return found != negated;
}

/* Matches one character of text against the pattern element at *at, which is not a star. */
static bool match_one(struct slice pattern, size_t *at, uint8_t c, bool ignore_case) {
    switch (pattern.data[*at]) {
    case '?':
        ++*at;
        return true;
    case '[':
        return match_class(pattern, at, c, ignore_case);
    default:
        return take_literal(pattern, at, ignore_case) == c;
    }
}

bool glob_match(struct slice pattern, struct slice text, bool ignore_case) {
    size_t at = 0, i = 0;
    /* Where to go on when a match fails: behind the last star, which then takes one byte more. Only
     * the last star needs to be retried. */
    size_t star_at = 0, star_i = 0;
    bool has_star = false;
    while (i < text.size) {
        if (at < pattern.size && pattern.data[at] == '*') {
            has_star = true;
            star_at = ++at;
            star_i = i;
            continue;
        }
        if (at < pattern.size &&
            match_one(pattern, &at, fold(text.data[i], ignore_case), ignore_case)) {
            i++;
            continue;
        }
        if (!has_star) {
            return false;
        }
        at = star_at;
        i = ++star_i;
    }
    while (at < pattern.size && pattern.data[at] == '*') {
        at++;
    }
    return at == pattern.size;
}
