// Which row of a cache of keys and values belongs to which picture of a batch.
#pragma once

#include <stdint.h>

namespace pyengine {

// The cache row of a batch's picture; slots: [pictures], or null where it is the picture's index.
// Always inline: files of different instruction sets include it.
[[gnu::always_inline]] inline int64_t slot_of(const int64_t* slots, int64_t picture) {
    return slots ? slots[picture] : picture;
}

// The first picture whose slot does not exist or is another's too, or -1.
int64_t first_bad_slot(const int64_t* slots, int64_t pictures, int64_t cache_rows);

}  // namespace pyengine
