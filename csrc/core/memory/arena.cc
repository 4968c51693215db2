#include "memory/arena.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <stdexcept>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace pyengine {

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kStep = size_t{32} << 20;  // address space is made writable this much at a time
constexpr size_t kLeast = size_t{64} << 20;

#ifdef MAP_NORESERVE
constexpr int kReserve = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
#else
constexpr int kReserve = MAP_PRIVATE | MAP_ANONYMOUS;
#endif

// With AddressSanitizer, what was given back is not to be touched.
#ifdef __SANITIZE_ADDRESS__
#define PYENGINE_POISON(memory, size) __asan_poison_memory_region(memory, size)
#define PYENGINE_UNPOISON(memory, size) __asan_unpoison_memory_region(memory, size)
#else
#define PYENGINE_POISON(memory, size) (void)0
#define PYENGINE_UNPOISON(memory, size) (void)0
#endif

// One for all arenas: whoever forks holds it meanwhile, else a child could get an arena that
// another thread of its parent had locked, and that nobody is left to unlock. It is held for
// microseconds.
std::mutex& all_arenas() {
    static std::mutex mutex;
    static const int registered =
        pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); }, [] { mutex.unlock(); });
    static_cast<void>(registered);
    return mutex;
}

size_t round_up(size_t value, size_t unit) {
    return (value + unit - 1) / unit * unit;
}

}  // namespace

Arena::Arena(size_t reserve, bool guarded) : guarded_(guarded) {
    // PROT_NONE: costs nothing, even where the system does not promise more than it has.
    for (size_t size = round_up(reserve, kStep); size >= kLeast; size = round_up(size / 2, kStep)) {
        mapping_ = mmap(nullptr, size + kHugePage, PROT_NONE, kReserve, -1, 0);
        if (mapping_ == MAP_FAILED) continue;
        const auto address = reinterpret_cast<uintptr_t>(mapping_);
        base_ = static_cast<char*>(mapping_) + (round_up(address, kHugePage) - address);
        reserved_ = size;
        add_hole(0, size);
        return;
    }
}

Arena::~Arena() {
    if (!base_) return;
    PYENGINE_UNPOISON(base_, writable_);
    munmap(mapping_, reserved_ + kHugePage);
}

bool Arena::make_writable(size_t end) {
    if (end <= writable_) return true;
    const size_t until = std::min(round_up(end, kStep), reserved_);
    char* from = base_ + writable_;
    if (mprotect(from, until - writable_, PROT_READ | PROT_WRITE) != 0) return false;
#ifdef MADV_HUGEPAGE
    madvise(from, until - writable_, MADV_HUGEPAGE);  // a wish: refused, all works as well
#endif
    writable_ = until;
    return true;
}

void Arena::add_hole(size_t offset, size_t size) {
    holes_[offset] = size;
    by_size_.insert({size, offset});
}

void Arena::remove_hole(std::map<size_t, size_t>::iterator hole) {
    by_size_.erase({hole->second, hole->first});
    holes_.erase(hole);
}

void* Arena::take(size_t bytes) {
    if (bytes > SIZE_MAX / 2) return nullptr;
    const size_t size = round_up(std::max<size_t>(bytes, 1), kAlignment);
    const std::lock_guard<std::mutex> lock(all_arenas());
    const auto found = by_size_.lower_bound({size, 0});
    if (found == by_size_.end()) return nullptr;
    const auto [room, offset] = *found;
    if (!make_writable(offset + size)) return nullptr;
    remove_hole(holes_.find(offset));
    if (room > size) add_hole(offset + size, room - size);
    taken_[offset] = size;
    used_ += size;
    peak_ = std::max(peak_, used_);
    touched_ = std::max(touched_, offset + size);
    PYENGINE_UNPOISON(base_ + offset, size);
    return base_ + offset;
}

void Arena::give(void* memory) {
    const std::lock_guard<std::mutex> lock(all_arenas());
    const auto block = taken_.find(static_cast<size_t>(static_cast<char*>(memory) - base_));
    if (block == taken_.end()) throw std::invalid_argument("arena: memory that it did not give");
    size_t begin = block->first;
    const size_t size = block->second;
    taken_.erase(block);
    used_ -= size;
    if (guarded_) PYENGINE_POISON(base_ + begin, size);
    size_t end = begin + size;
    auto next = holes_.lower_bound(begin);
    if (next != holes_.begin()) {
        const auto before = std::prev(next);
        if (before->first + before->second == begin) {
            begin = before->first;
            remove_hole(before);
        }
    }
    if (next != holes_.end() && next->first == end) {
        end += next->second;
        remove_hole(next);
    }
    add_hole(begin, end - begin);
}

void Arena::trim() {
    const std::lock_guard<std::mutex> lock(all_arenas());
    for (const auto& [offset, size] : holes_) {
        const size_t begin = round_up(offset, kHugePage);
        const size_t end = std::min(offset + size, writable_) / kHugePage * kHugePage;
        if (begin < end) madvise(base_ + begin, end - begin, MADV_DONTNEED);
    }
    touched_ = taken_.empty() ? 0 : taken_.rbegin()->first + taken_.rbegin()->second;
}

Arena::Statistics Arena::statistics() const {
    const std::lock_guard<std::mutex> lock(all_arenas());
    return {reserved_, used_, taken_.size(), peak_, touched_};
}

}  // namespace pyengine
