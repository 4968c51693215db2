// Memory for activations: one stretch of address space whose pages are used over and over.
//
// A fresh 42 MB result costs 10,241 page faults, three times what computing it does; taken from
// here it costs them once. Address space is reserved at the start and takes no memory; pages become
// resident when they are first written, in huge pages where the system has them.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <map>
#include <mutex>
#include <set>
#include <utility>

namespace pyengine {

class Arena {
 public:
    static constexpr size_t kAlignment = 64;

    // Reserves up to `reserve` bytes of address space: less, down to none, where the process may
    // not have so much. guarded: with AddressSanitizer, what was given back is not to be touched;
    // without, for kernels that are called again in the memory that they had.
    explicit Arena(size_t reserve, bool guarded = true);
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    // `bytes` bytes, aligned to kAlignment, in the smallest hole that holds them, the lowest of
    // equals; null where none does. Any thread may call any of these.
    void* take(size_t bytes);
    // Ends the use of what take() returned.
    void give(void* memory);
    // Hands the pages of all holes back to the system, which zeroes them when they are used again.
    void trim();

    struct Statistics {
        size_t reserved;  // address space
        size_t used;      // bytes taken and not given back
        size_t blocks;    // how many pieces that is
        size_t peak;      // the most that `used` has been
        size_t touched;   // highest byte ever taken since the last trim(): bounds what is resident
    };
    Statistics statistics() const;

 private:
    using Hole = std::pair<size_t, size_t>;  // size, offset

    bool make_writable(size_t end);
    void add_hole(size_t offset, size_t size);
    void remove_hole(std::map<size_t, size_t>::iterator hole);

    const bool guarded_;
    void* mapping_ = nullptr;
    char* base_ = nullptr;  // the first huge page in it
    size_t reserved_ = 0, writable_ = 0, used_ = 0, peak_ = 0, touched_ = 0;
    std::map<size_t, size_t> holes_;  // offset -> size; no two touch
    std::set<Hole> by_size_;          // the same
    std::map<size_t, size_t> taken_;  // offset -> size
};

}  // namespace pyengine
