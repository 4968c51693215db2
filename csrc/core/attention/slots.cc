#include "attention/slots.h"

#include <stddef.h>

#include <vector>

namespace pyengine {

int64_t first_bad_slot(const int64_t* slots, int64_t pictures, int64_t cache_rows) {
    if (!slots) return pictures > cache_rows ? cache_rows : -1;
    std::vector<bool> taken(static_cast<size_t>(cache_rows));
    for (int64_t i = 0; i < pictures; ++i) {
        if (slots[i] < 0 || slots[i] >= cache_rows) return i;
        if (taken[static_cast<size_t>(slots[i])]) return i;
        taken[static_cast<size_t>(slots[i])] = true;
    }
    return -1;
}

}  // namespace pyengine
